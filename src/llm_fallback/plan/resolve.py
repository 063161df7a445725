"""A Spec resolved into a Plan: variables filled in, settings merged, every secret known by name."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from pydantic import SecretStr

from llm_fallback._imports import imported
from llm_fallback.errors import Mistake, SpecError
from llm_fallback.plan.plan import ChainPlan, Member, Plan, Target, Tier, Tiers
from llm_fallback.plan.pricing import FREE, Prices
from llm_fallback.spec import Budget, Deployment, Price, Spec
from llm_fallback.spec.consistency import is_address
from llm_fallback.spec.locations import Path, Problem
from llm_fallback.spec.model import NO_CHAIN
from llm_fallback.spec.providers import BACKENDS, split_model
from llm_fallback.spec.secrets import password_of, secrets_in
from llm_fallback.spec.variables import Environment, references, resolve, unset


def resolve_spec(spec: Spec, environ: Mapping[str, str]) -> Plan:
    """The plan of a spec; raises one SpecError naming every variable that is not set, and every address that its
    variables make none."""
    variables = Environment(environ)
    targets = {name: _target(spec, name, variables) for name in spec.deployments}
    budgets = {name: _budget(spec.budget(name), variables, name) for name in spec.chains}
    mistakes = list(variables.mistakes)
    mistakes += [Problem(path, text).at(spec.locations) for path, text in misaddressed(spec, environ)]
    chains = {name: _chain(spec, name, targets, budgets[name], mistakes) for name in spec.chains}
    del variables
    if not chains:
        mistakes.append(NO_CHAIN)
    if mistakes:
        raise SpecError(mistakes)
    secrets = tuple(secret for target in targets.values() for secret in _secrets(target))
    return Plan(chains, spec.default_chain or next(iter(chains)), targets, secrets)


def misaddressed(spec: Spec, environ: Mapping[str, str]) -> Iterator[tuple[Path, str]]:
    """Addresses that come to none by what their variables are set to. Those may be secrets, so they are not told."""
    for name, own in spec.deployments.items():
        if own.api_base is None or not references(own.api_base) or unset(own.api_base, environ):
            continue
        address = resolve(own.api_base, environ)
        # Where nothing is sent, variables stand for themselves.
        if not is_address(address) and not references(address):
            what = "no address that begins with http:// or https://" if address.strip() else "nothing"
            yield (
                ("deployments", name, "api_base"),
                f"{own.api_base!r} comes to {what}; set it as in 'http://host:8000'",
            )


def _target(spec: Spec, name: str, variables: Environment) -> Target:
    own = spec.deployments[name]
    path = ("deployments", name)
    model = variables.text(own.model, (*path, "model"))
    api_base = variables.text(own.api_base, (*path, "api_base")) if own.api_base else None
    backend = BACKENDS[own.backend] if own.backend else None
    parameters: dict[str, Any] = dict(variables.value(spec.params(name), (*path, "params")))
    parameters["model"] = backend.model(model) if backend else model
    if api_base:
        parameters["api_base"] = backend.base_url(api_base) if backend else api_base
    return Target(
        name=name,
        model=model,
        model_identity=(own.base_model or (model if own.backend else split_model(model)[1])).casefold(),
        parameters=parameters,
        api_key=_key(own, variables, (*path, "api_key")),
        backend=own.backend,
        uses_provider_credentials=own.api_key is None and backend is None and api_base is None,
        weight=own.weight,
        prices=_prices(own.price),
        context_window=own.context_window,
        profile=dict(own.profile),
        limits=spec.limits(name),
        breaker=spec.breaker(name),
        cold_start=spec.cold_start(name),
        base_model=own.base_model,
    )


def _key(own: Deployment, variables: Environment, path: tuple[str, ...]) -> SecretStr | Callable[[], Any] | None:
    if isinstance(own.api_key, SecretStr):
        return SecretStr(variables.text(own.api_key.get_secret_value(), path))
    return own.api_key


def _prices(price: Any) -> Prices | None:
    if price == "free":
        return FREE
    return _declared(price) if isinstance(price, Price) else None


def _declared(price: Price) -> Prices:
    nothing = FREE.input
    return Prices(
        input=price.input_per_million if price.input_per_million is not None else nothing,
        output=price.output_per_million if price.output_per_million is not None else nothing,
        cached_input=price.cached_input_per_million,
        cache_write=price.cache_write_per_million,
        reasoning=price.reasoning_per_million,
        audio_input=price.audio_input_per_million,
        audio_output=price.audio_output_per_million,
        per_request=price.per_request if price.per_request is not None else nothing,
        per_gpu_hour=price.per_gpu_hour if price.per_gpu_hour is not None else nothing,
    )


def _budget(budget: Budget | None, variables: Environment, chain: str) -> Budget | None:
    if budget is None or budget.file is None:
        return budget
    return budget.model_copy(update={"file": variables.text(budget.file, ("chains", chain, "budget", "file"))})


def _chain(
    spec: Spec, name: str, targets: Mapping[str, Target], budget: Budget | None, mistakes: list[Mistake]
) -> ChainPlan:
    own = spec.chains[name]

    def tiers(names: tuple[tuple[str, ...], ...]) -> Tiers:
        made = (_tier(spec, name, tier, targets) for tier in names)
        return tuple(tier for tier in made if tier.members)

    total_s = spec.timeouts(name).total_s
    assert total_s is not None
    return ChainPlan(
        name=name,
        tiers=tiers(own.tiers),
        on_context_window=None if own.on_context_window is None else tiers(own.on_context_window),
        on_content_policy=None if own.on_content_policy is None else tiers(own.on_content_policy),
        total_s=total_s,
        retries=spec.retries(name),
        on_stream_break=spec.on_stream_break(name),
        hedge=spec.hedge(name),
        accept=_predicate(spec, name, mistakes),
        budget=budget,
    )


def _tier(spec: Spec, chain: str, names: tuple[str, ...], targets: Mapping[str, Target]) -> Tier:
    in_rotation = (targets[name] for name in names if targets[name].weight > 0)
    return Tier(tuple(Member(target, spec.timeouts(chain, target.name)) for target in in_rotation))


def _predicate(spec: Spec, chain: str, mistakes: list[Mistake]) -> Callable[[Any], Any] | None:
    """The function an import path names; a mistake is noted where there is none."""
    accept, path = spec.accept(chain), ("chains", chain, "accept")
    if accept is None or callable(accept):
        return accept
    try:
        found = imported(accept)
        text = f"{accept!r} is no function"
    except (ImportError, AttributeError) as error:
        found, text = None, f"{accept!r} cannot be imported ({error})"
    if callable(found):
        return found  # type: ignore[no-any-return]
    mistakes.append(Problem(path, text, "name it as 'package.module:function'").at(spec.locations))
    return None


def _secrets(target: Target) -> list[str]:
    found = [*secrets_in(target.parameters), *secrets_in(target.api_key)]
    return [*found, *password_of(str(target.parameters.get("api_base", "")))]
