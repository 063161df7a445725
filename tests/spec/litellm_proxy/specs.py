"""Specs at random, and what of one a proxy's configuration can carry."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

from hypothesis import strategies as st

from llm_fallback.plan.resolve import resolve_spec
from llm_fallback.spec import Spec
from llm_fallback.spec.litellm_proxy.words import ABILITIES
from llm_fallback.spec.providers import BACKENDS

NAMES = st.sampled_from(["a", "b", "a/2", "a/b", "2", "on_context_window", "llama-a", "gpt 4.1", "a//2"])
SECONDS = st.sampled_from([0.5, 3, 8, 20, 120, 400])
VARIABLES = ("KEY_A", "KEY_B")


def maybe(strategy: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.none() | strategy


def part(**fields: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries({}, optional=fields)


dollars = st.decimals(min_value=0, max_value=100, places=3)
prices = st.just("free") | st.fixed_dictionaries(
    {"input_per_million": dollars, "output_per_million": dollars},
    optional={"cached_input_per_million": dollars, "per_request": dollars},
)
settings = {
    "params": part(temperature=st.sampled_from([0, 0.7]), extra_headers=st.just({"X-Team": "search"})),
    "limits": part(rpm=st.integers(1, 999), tpm=st.integers(1, 99999), max_parallel=st.integers(1, 64)),
    "breaker": st.just("off") | part(failures=st.integers(1, 9), cooldown_s=SECONDS),
}
own = {
    **settings,
    "api_key": st.sampled_from(["${KEY_A}", "${KEY_B}", "os.environ/KEY_A"]),
    "base_model": st.sampled_from(["gpt-4.1", "claude-sonnet-4-5"]),
    "price": prices,
    "context_window": st.integers(1, 200_000),
    "profile": part(tool_calling=st.booleans(), image_inputs=st.booleans(), max_output_tokens=st.integers(1, 9999)),
    "weight": st.sampled_from([0, 0.5, 1, 2]),
    "timeouts": part(attempt_s=SECONDS, first_token_s=maybe(SECONDS)),
}
running = st.fixed_dictionaries(
    {"model": st.sampled_from(["anthropic/claude-sonnet-4-5", "openai/gpt-4.1", "azure/prod"])}, optional=own
)
self_hosted = st.fixed_dictionaries(
    {
        "backend": st.sampled_from(list(BACKENDS)),
        "model": st.sampled_from(["llama", "Qwen/Qwen3-32B"]),
        "api_base": st.sampled_from(["http://gpu-a:8000", "http://gpu-a:8000/v1", "http://gpu-b:8000/v1/"]),
    },
    optional=own,
)


@st.composite
def specs(draw: st.DrawFn) -> Spec:
    """A spec, its chains sharing some of its deployments."""
    names = draw(st.lists(NAMES, min_size=1, max_size=4, unique=True))
    deployments = {name: draw(running | self_hosted) for name in names}
    chains = draw(st.dictionaries(NAMES, chain_of(names), min_size=1, max_size=3))
    return Spec.model_validate(
        {
            "deployments": deployments,
            "chains": chains,
            "default_chain": draw(st.sampled_from(sorted(chains))),
            "defaults": draw(part(**settings, timeouts=part(attempt_s=SECONDS, first_token_s=SECONDS))),
        }
    )


@st.composite
def tiers_of(draw: st.DrawFn, names: list[str], least: int) -> list[list[str]]:
    order = draw(st.permutations(names))
    order = order[: draw(st.integers(least, len(order)))]
    tiers: list[list[str]] = []
    for name in order:
        if tiers and draw(st.booleans()):
            tiers[-1].append(name)
        else:
            tiers.append([name])
    return tiers


def chain_of(names: list[str]) -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries(
        {"tiers": tiers_of(names, 1)},
        optional={
            "on_context_window": tiers_of(names, 0),
            "on_content_policy": tiers_of(names, 0),
            "timeouts": part(attempt_s=SECONDS, first_token_s=SECONDS),
        },
    )


def carried(spec: Spec) -> dict[str, Any]:
    """What a configuration carries of a spec, in effect: who is asked in which order, how, and how much is known."""
    plan = resolve_spec(spec, {name: f"value of {name}" for name in VARIABLES})
    chains = {name: _chain(spec, plan.chains[name]) for name in spec.chains if plan.chains[name].tiers}
    default = spec.default_chain if spec.default_chain in chains else next(iter(chains), None)
    return {"default": default, "chains": chains}


def _chain(spec: Spec, chain: Any) -> dict[str, Any]:
    tiers = _tiers(spec, chain.name, chain.tiers)
    routes = {"on_context_window": chain.on_context_window, "on_content_policy": chain.on_content_policy}
    told = {word: None if route is None else _tiers(spec, chain.name, route) for word, route in routes.items()}
    # Who is asked next anyway need not be said.
    usual = {word: None if route == tiers[1:] != [] else route for word, route in told.items()}
    return {"tiers": tiers, **usual}


def _tiers(spec: Spec, chain: str, tiers: Any) -> list[list[dict[str, Any]]]:
    return [[_member(spec, chain, member) for member in tier.members] for tier in tiers]


def _member(spec: Spec, chain: str, member: Any) -> dict[str, Any]:
    target, timeouts = member.target, member.timeouts
    breaker = target.breaker
    return {
        "name": target.name,
        "backend": target.backend,
        "parameters": target.parameters,
        "key": None if target.api_key is None else target.api_key.get_secret_value(),
        "base_model": target.base_model,
        "prices": target.prices,
        "context_window": target.context_window,
        "profile": {word: value for word, value in target.profile.items() if word in ABILITIES.values()},
        "weight": target.weight,
        "limits": None if target.limits is None else target.limits.given() or None,
        "breaker": None if breaker is None else (breaker.failures, breaker.cooldown_s),
        "attempt_s": timeouts.attempt_s,
        "first_token_s": timeouts.first_token_s,
    }


__all__ = ["Decimal", "carried", "specs"]
