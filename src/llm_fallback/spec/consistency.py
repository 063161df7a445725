"""Checks across the parts of a spec: names that must exist, addresses, prices, settings that exclude each other.

Works on plain data, so that it runs whether or not each part is valid by itself, and every mistake is found at once.
Values of the wrong type are skipped here; the validation of their part reports them.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any

from pydantic import SecretStr

from llm_fallback.errors import did_you_mean, unknown_chain
from llm_fallback.spec.error_messages import OWNED_PARAMETERS
from llm_fallback.spec.locations import Path, Problem, children, dotted
from llm_fallback.spec.providers import BACKENDS, backend_called, likely_provider, split_model, with_slash
from llm_fallback.spec.secrets import safe_repr
from llm_fallback.spec.settings import ROUTES
from llm_fallback.spec.variables import malformed, references

_MOST_NAMED = 12
_EXAMPLE_ADDRESS = "write it as in 'http://host:8000'"

_NO_PROVIDER = frozenset(
    {
        *("trtllm", "tensorrt_llm", "tensorrt-llm", "openllm", "ray_serve", "ray-serve", "ray"),
        *("openai-compatible", "litellm-proxy"),
    }
)
"""Names of backends that are written before a slash, though no provider of litellm's is called so."""


def problems(data: Mapping[str, Any]) -> list[Problem]:
    """Every inconsistency in a spec's data."""
    return [
        *_parameters(_mapping(data.get("defaults")).get("params"), ("defaults", "params")),
        *_each(data, "deployments", _deployment),
        *_each(data, "chains", lambda setting, path: _chain(setting, path, data)),
        *_default_chain(data),
        *_unpriced(data),
        *_fleet(_mapping(data.get("fleet")), _mapping(data.get("deployments"))),
        *_each(data, "runnables", lambda runnable, path: _runnable(runnable, path, data)),
        *_nested_variables(_mapping(data.get("serve")).get("keys"), ("serve", "keys")),
    ]


def suggest(word: object, known: Mapping[str, object]) -> str | None:
    """`did you mean 'x'?`, else the first twelve of `known`; None if there are none."""
    all_known = f"known are {', '.join(map(repr, list(known)[:_MOST_NAMED]))}" if known else ""
    return did_you_mean(word, known, all_known) or None


def members(tiers: Any, path: Path) -> Iterator[tuple[Path, str]]:
    """Each deployment named in tiers, with its path. A tier may be a name or a list of names."""
    if isinstance(tiers, str):
        return
    for index, tier in children(tiers):
        names = [((), tier)] if isinstance(tier, str) else [((inner,), name) for inner, name in children(tier)]
        yield from (((*path, index, *inner), name) for inner, name in names if isinstance(name, str))


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _each(
    data: Mapping[str, Any], section: str, check: Callable[[Mapping[str, Any], Path], Iterator[Problem]]
) -> Iterator[Problem]:
    for name, entry in _mapping(data.get(section)).items():
        if not name.strip():
            yield Problem((section, name), "has an empty name")
        yield from check(_mapping(entry), (section, name))


def _deployment(deployment: Mapping[str, Any], path: Path) -> Iterator[Problem]:
    yield from _model(deployment, path)
    yield from _address(deployment, path)
    yield from _parameters(deployment.get("params"), (*path, "params"))
    for field in ("model", "base_model", "api_key", "api_base"):
        yield from _variables(deployment.get(field), (*path, field))


def _model(deployment: Mapping[str, Any], path: Path) -> Iterator[Problem]:
    model, backend = deployment.get("model"), _known_backend(deployment)
    if not isinstance(model, str) or not model or references(model):
        return
    if backend is not None:
        yield from _served_name(model, backend, (*path, "model"))
    elif deployment.get("backend") is None:
        yield from _hosted_model(model, (*path, "model"))


def _known_backend(deployment: Mapping[str, Any]) -> str | None:
    """Its backend; None if it has none, or one that there is not."""
    backend = deployment.get("backend")
    return backend if isinstance(backend, str) and backend in BACKENDS else None


def _served_name(model: str, backend: str, path: Path) -> Iterator[Problem]:
    prefix, served = split_model(model)
    if prefix in ("hosted_vllm", "litellm_proxy") and served != model:
        yield Problem(path, f"with backend {backend!r} the model is the name it is served under", f"write {served!r}")


def _hosted_model(model: str, path: Path) -> Iterator[Problem]:
    written = with_slash(model)
    provider, served = split_model(written)
    if "/" not in written:
        yield Problem(path, f"{safe_repr(model, path) or 'the model'} names no provider", _provider_for(model))
    elif not provider or served == written:
        yield Problem(path, "must be 'provider/model'", _provider_for(model.strip("/")))
    elif provider in _NO_PROVIDER:
        remedy = f"write backend: {backend_called(provider)}, model: {served}, and its api_base"
        yield Problem(path, f"{provider!r} is no provider of litellm's", remedy)
    elif provider == "aiohttp_openai":
        yield Problem(path, f"litellm follows redirects of {provider!r} to any host", f"write 'openai/{served}'")


def _provider_for(model: str) -> str:
    provider = likely_provider(model)
    if provider:
        return f"write '{provider}/{model}'"
    return "write 'provider/model' as litellm does, or name a 'backend' and its 'api_base'"


def is_address(text: str) -> bool:
    """Whether it is an HTTP address. With any other text litellm would send requests to the provider's own."""
    return text.startswith(("http://", "https://"))


def _address(deployment: Mapping[str, Any], path: Path) -> Iterator[Problem]:
    backend, api_base = _known_backend(deployment), deployment.get("api_base")
    where = (*path, "api_base")
    if isinstance(api_base, str):
        if not is_address(api_base) and not references(api_base):
            got = safe_repr(api_base, where)
            text = "must be an address that begins with http:// or https://" + (f", got {got}" if got else "")
            yield Problem(where, text)
    elif api_base is None and backend is not None:
        yield Problem(where, f"is missing: backend {backend!r} needs its server's address", _EXAMPLE_ADDRESS)


def _parameters(params: Any, path: Path) -> Iterator[Problem]:
    for name in _mapping(params):
        if name in OWNED_PARAMETERS:
            yield Problem((*path, name), f"{name!r} cannot be a parameter", OWNED_PARAMETERS[name])
    yield from _nested_variables(params, path)


def _nested_variables(value: Any, path: Path) -> Iterator[Problem]:
    yield from _variables(value, path)
    for key, item in children(value):
        yield from _nested_variables(item, (*path, key))


def _variables(value: Any, path: Path) -> Iterator[Problem]:
    text = value.get_secret_value() if isinstance(value, SecretStr) else value
    if isinstance(text, str) and malformed(text):
        yield Problem(
            path,
            "has a '${' that begins no variable",
            "write ${NAME}, ${NAME:-default} or ${NAME:?message}; for the characters themselves write $${",
        )


def _chain(setting: Mapping[str, Any], path: Path, data: Mapping[str, Any]) -> Iterator[Problem]:
    for field in ROUTES:
        yield from _names(setting.get(field), (*path, field), _mapping(data.get("deployments")))
    yield from stream_break(setting, _mapping(data.get("defaults")), path)
    yield from _variables(_mapping(setting.get("budget")).get("file"), (*path, "budget", "file"))
    yield from _nobody_inside(setting, path, data)


def _nobody_inside(setting: Mapping[str, Any], path: Path, data: Mapping[str, Any]) -> Iterator[Problem]:
    """A chain none of whose deployments may get its prompts."""
    zones = setting["zones"] if "zones" in setting else _mapping(data.get("defaults")).get("zones")
    if not isinstance(zones, str | Collection):
        return
    named, deployments = [name for _, name in members(setting.get("tiers"), ())], _mapping(data.get("deployments"))
    if not named or not deployments.keys() >= set(named):
        return
    allowed = (zones,) if isinstance(zones, str) else tuple(zones)
    asked = [_mapping(deployments[name]) for name in named]
    found_in = [entry["zone"] for entry in asked if entry.get("zone") is not None and entry.get("weight") != 0]
    if not any(zone in allowed for zone in found_in):
        known = dict.fromkeys(map(str, found_in))
        nearest = next((found for zone in allowed if (found := did_you_mean(zone, known))), None)
        inside = f"they are in {', '.join(map(repr, known))}" if known else "give one its 'zone'"
        yield Problem((*path, "zones"), "no deployment of the chain's tiers is in them", nearest or inside)


def _names(tiers: Any, path: Path, deployments: Mapping[str, Any]) -> Iterator[Problem]:
    first: dict[str, Path] = {}
    for where, name in members(tiers, path):
        if name not in deployments:
            yield Problem(where, f"no deployment is called {name!r}", suggest(name, deployments))
        elif name in first:
            yield Problem(where, f"{name!r} stands here a second time", f"it is at {dotted(first[name])} already")
        first.setdefault(name, where)


def stream_break(setting: Mapping[str, Any], defaults: Mapping[str, Any], path: Path) -> Iterator[Problem]:
    """A chain that validates replies cannot deliver them before they are complete."""
    accept, on_break = (
        setting[field] if field in setting else defaults.get(field) for field in ("accept", "on_stream_break")
    )
    if accept is not None and on_break in ("raise", "continue"):
        yield Problem(
            (*path, "on_stream_break"),
            f"cannot be {on_break!r} beside 'accept': a reply must be whole before it is judged",
            "write 'hold', or leave it out",
        )


def _default_chain(data: Mapping[str, Any]) -> Iterator[Problem]:
    chains, default = _mapping(data.get("chains")), data.get("default_chain")
    if isinstance(default, str):
        yield from _known_chain(default, ("default_chain",), chains)
    elif default is None and len(chains) > 1:
        names = ", ".join(map(repr, chains))
        yield Problem(("default_chain",), f"is missing: there are several chains ({names})", "name one of them")


def _unpriced(data: Mapping[str, Any]) -> Iterator[Problem]:
    """Deployments without a price in chains with a budget. Models on a self-hosted server are on no price list."""
    budgeted = {
        name: [member for field in ROUTES for _, member in members(_mapping(chain).get(field), ())]
        for name, chain in _mapping(data.get("chains")).items()
        if _has_budget(_mapping(chain), _mapping(data.get("defaults")))
    }
    for name, deployment in _mapping(data.get("deployments")).items():
        chain = next((chain for chain, names in budgeted.items() if name in names), None)
        if chain is not None and _is_unpriced(_mapping(deployment)):
            yield price_missing(name, chain, str(deployment.get("model")))


def _has_budget(chain: Mapping[str, Any], defaults: Mapping[str, Any]) -> bool:
    if "budget" in chain and chain["budget"] is None:
        return False
    budget = {**_mapping(defaults.get("budget")), **_mapping(chain.get("budget"))}
    return any(budget.get(f"usd_per_{window}") is not None for window in ("call", "run", "day"))


def _is_unpriced(deployment: Mapping[str, Any]) -> bool:
    hosted = _known_backend(deployment) is None or deployment.get("base_model") is not None
    return not hosted and deployment.get("price") is None and deployment.get("weight") != 0


def price_missing(deployment: str, chain: str, model: str) -> Problem:
    """The mistake of a chain with a budget and a deployment whose price is unknown."""
    return Problem(
        ("deployments", deployment, "price"),
        f"is missing: chain {chain!r} has a budget, and nobody knows what {model!r} costs",
        "write 'free', or its prices as in {input_per_million: 3, output_per_million: 15}, or name its base_model",
    )


STORES = ("redis://", "rediss://", "unix://", "file:///")
"""How the address of a fleet's store begins."""


def _fleet(fleet: Mapping[str, Any], deployments: Mapping[str, Any]) -> Iterator[Problem]:
    if "fleet" in deployments:
        text = "'fleet' cannot be the name of a deployment: `model.state()` tells of the fleet under it"
        yield Problem(("deployments", "fleet"), text, "give it another name")
    for field in ("store", "name", "secret"):
        yield from _variables(fleet.get(field), ("fleet", field))
    store = fleet.get("store")
    if isinstance(store, str) and store and not references(store) and not store.startswith(STORES):
        got = safe_repr(store, ("fleet", "store"))
        text = f"must be an address that begins with {', '.join(STORES)}" + (f", got {got}" if got else "")
        yield Problem(("fleet", "store"), text, "write it as in 'redis://host:6379/0'")


def _runnable(runnable: Mapping[str, Any], path: Path, data: Mapping[str, Any]) -> Iterator[Problem]:
    if isinstance(runnable.get("chain"), str):
        yield from _known_chain(runnable["chain"], (*path, "chain"), _mapping(data.get("chains")))


def _known_chain(name: str, path: Path, chains: Mapping[str, Any]) -> Iterator[Problem]:
    if name not in chains:
        yield Problem(path, *unknown_chain(name, chains))
