"""Resolves a Spec into a Plan: variables filled in, settings merged, import paths imported."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any
from urllib.parse import urlsplit

from pydantic import SecretStr

from llm_fallback._imports import imported
from llm_fallback.errors import Mistake, SpecError
from llm_fallback.plan.plan import ChainPlan, FleetPlan, Member, Plan, Target, Tier, Tiers
from llm_fallback.plan.pricing import FREE, Prices
from llm_fallback.plan.provider_credentials import secrets_in_variables
from llm_fallback.spec import Budget, Deployment, Price, Spec
from llm_fallback.spec.consistency import STORES, is_address
from llm_fallback.spec.locations import Path, Problem
from llm_fallback.spec.model import NO_CHAIN
from llm_fallback.spec.providers import BACKENDS, split_model
from llm_fallback.spec.secrets import Address, secrets_in, secrets_of_address
from llm_fallback.spec.variables import Environment, references, resolve, unset


def resolve_spec(spec: Spec, environ: Mapping[str, str]) -> Plan:
    """The plan of a spec. Raises one SpecError with every unset variable, invalid address and failed import."""
    variables = Environment(environ, spec.locations)
    targets = {name: _target(spec, name, variables) for name in spec.deployments}
    budgets = {name: _budget(spec.budget(name), variables, name) for name in spec.chains}
    fleet = _fleet(spec, variables)
    mistakes = list(variables.mistakes)
    wrong = (*misaddressed(spec, environ), *with_two_logins(spec, environ))
    mistakes += [Problem(path, text).at(spec.locations) for path, text in wrong]
    chains = {name: _chain(spec, name, targets, budgets[name], mistakes) for name in spec.chains}
    del variables
    if not chains:
        mistakes.append(NO_CHAIN)
    if mistakes:
        # A traceback shows this frame, too.
        del environ
        raise SpecError(mistakes)
    secrets = (
        *(secret for target in targets.values() for secret in _secrets(target, environ)),
        *_own(spec, environ),
        *((fleet.secret, *secrets_of_address(fleet.store)) if fleet else ()),
    )
    return Plan(chains, spec.default_chain or next(iter(chains)), targets, tuple(filter(None, secrets)), fleet)


def _own(spec: Spec, environ: Mapping[str, str]) -> Iterator[str]:
    """The values of the variables that the spec's sources set themselves."""
    return (environ[name] for name in spec.own_variables() if name in environ)


def misaddressed(spec: Spec, environ: Mapping[str, str]) -> Iterator[tuple[Path, str]]:
    """Addresses that are invalid with the values of their variables. The values may be secrets and are not shown."""
    for name, deployment in spec.deployments.items():
        if deployment.api_base is None or not references(deployment.api_base) or unset(deployment.api_base, environ):
            continue
        address = resolve(deployment.api_base, environ)
        # `explain` resolves a variable to its own reference.
        if not is_address(address) and not references(address):
            what = "no address that begins with http:// or https://" if address.strip() else "nothing"
            yield (
                ("deployments", name, "api_base"),
                f"{deployment.api_base!r} comes to {what}; set it as in 'http://host:8000'",
            )


def with_two_logins(spec: Spec, environ: Mapping[str, str]) -> Iterator[tuple[Path, str]]:
    """Addresses with a login in front of the host, beside one in a header: a request has one place for both."""
    for name, deployment in spec.deployments.items():
        if deployment.api_base is None or unset(deployment.api_base, environ):
            continue
        if "@" not in urlsplit(resolve(deployment.api_base, environ)).netloc:
            continue
        for word in ("extra_headers", "headers"):
            headers = spec.params(name).get(word)
            for header, text in headers.items() if isinstance(headers, Mapping) else ():
                if str(header).lower() == "authorization" and text is not None:
                    yield (
                        ("deployments", name, "api_base"),
                        f"has a login in front of its host, as has params.{word}.{header}; leave out one of the two",
                    )


def _target(spec: Spec, name: str, variables: Environment) -> Target:
    deployment = spec.deployments[name]
    path = ("deployments", name)
    model = variables.text(deployment.model, (*path, "model"))
    api_base = variables.text(deployment.api_base, (*path, "api_base")) if deployment.api_base else None
    backend = BACKENDS[deployment.backend] if deployment.backend else None
    parameters: dict[str, Any] = dict(variables.value(spec.params(name), (*path, "params")))
    parameters["model"] = backend.model(model) if backend else model
    if api_base:
        parameters["api_base"] = Address(backend.base_url(api_base) if backend else api_base)
    return Target(
        name=name,
        model=model,
        model_identity=(deployment.base_model or (model if deployment.backend else split_model(model)[1])).casefold(),
        parameters=parameters,
        api_key=_key(deployment, variables, (*path, "api_key")),
        backend=deployment.backend,
        uses_provider_credentials=deployment.api_key is None and backend is None and api_base is None,
        weight=deployment.weight,
        zone=deployment.zone,
        prices=_prices(deployment.price),
        context_window=deployment.context_window,
        profile=dict(deployment.profile),
        limits=spec.limits(name),
        breaker=spec.breaker(name),
        cold_start=spec.cold_start(name),
        base_model=deployment.base_model,
        finish_reasons=deployment.finish_reasons,
    )


def _key(deployment: Deployment, variables: Environment, path: tuple[str, ...]) -> SecretStr | Callable[[], Any] | None:
    if isinstance(deployment.api_key, SecretStr):
        return SecretStr(variables.text(deployment.api_key.get_secret_value(), path))
    return deployment.api_key


def _prices(price: Any) -> Prices | None:
    if price == "free":
        return FREE
    if not isinstance(price, Price):
        return None
    written = {name.removesuffix("_per_million"): usd for name, usd in price.given().items() if usd is not None}
    prices: dict[str, Any] = {"input": FREE.input, "output": FREE.output, **written}
    return Prices(**prices)


def _budget(budget: Budget | None, variables: Environment, chain: str) -> Budget | None:
    if budget is None or budget.file is None:
        return budget
    return budget.model_copy(update={"file": variables.text(budget.file, ("chains", chain, "budget", "file"))})


def _fleet(spec: Spec, variables: Environment) -> FleetPlan | None:
    fleet = spec.fleet
    if fleet is None:
        return None
    store = variables.text(fleet.store, ("fleet", "store"))
    if store and not references(store) and not store.startswith(STORES):
        text = f"comes to no address that begins with {', '.join(STORES)}"
        variables.mistakes.append(Problem(("fleet", "store"), text).at(spec.locations))
    secret = variables.text(fleet.secret.get_secret_value(), ("fleet", "secret")) if fleet.secret else ""
    name = variables.text(fleet.name, ("fleet", "name"))
    # Without any secret names are only shortened: whoever knows them recognises them.
    return FleetPlan(store, name, secret or next(secrets_of_address(store), ""), fleet.processes)


def _chain(
    spec: Spec, name: str, targets: Mapping[str, Target], budget: Budget | None, mistakes: list[Mistake]
) -> ChainPlan:
    chain = spec.chains[name]

    def tiers(names: tuple[tuple[str, ...], ...]) -> Tiers:
        made = (_tier(spec, name, tier, targets) for tier in names)
        return tuple(tier for tier in made if tier.members or tier.outside)

    total_s = spec.timeouts(name).total_s
    assert total_s is not None
    return ChainPlan(
        name=name,
        tiers=tiers(chain.tiers),
        on_context_window=None if chain.on_context_window is None else tiers(chain.on_context_window),
        on_content_policy=None if chain.on_content_policy is None else tiers(chain.on_content_policy),
        total_s=total_s,
        retries=spec.retries(name),
        on_stream_break=spec.on_stream_break(name),
        hedge=spec.hedge(name),
        accept=_predicate(spec, name, mistakes),
        budget=budget,
        balance=spec.balance(name),
        affinity=spec.affinity(name),
        zones=spec.zones(name),
    )


def _tier(spec: Spec, chain: str, names: tuple[str, ...], targets: Mapping[str, Target]) -> Tier:
    in_rotation = (targets[name] for name in names if targets[name].weight > 0)
    tier = Tier(tuple(Member(target, spec.timeouts(chain, target.name)) for target in in_rotation))
    zones = spec.zones(chain)
    return tier if zones is None else tier.within(zones)


def _predicate(spec: Spec, chain: str, mistakes: list[Mistake]) -> Callable[[Any], Any] | None:
    """The function at an import path; None, with a mistake added, if there is none."""
    accept, path = spec.accept(chain), ("chains", chain, "accept")
    if accept is None or callable(accept):
        return accept
    try:
        function = imported(accept)
        text = f"{accept!r} is no function"
    except (ImportError, AttributeError) as error:
        function, text = None, f"{accept!r} cannot be imported ({error})"
    if callable(function):
        return function  # type: ignore[no-any-return]
    mistakes.append(Problem(path, text, "name it as 'package.module:function'").at(spec.locations))
    return None


def _secrets(target: Target, environ: Mapping[str, str]) -> Iterator[str]:
    yield from secrets_in(target.parameters)
    yield from secrets_in(target.api_key)
    yield from secrets_of_address(str(target.parameters.get("api_base", "")))
    if target.uses_provider_credentials:
        yield from secrets_in_variables(target.litellm_provider, environ)
