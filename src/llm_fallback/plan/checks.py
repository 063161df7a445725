"""Checks for what is valid in a spec but unwise, so that a user learns of it before the first request.

Each check looks at one thing and yields paths with messages. None imports litellm or sends anything.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from decimal import Decimal
from itertools import chain as joined
from itertools import pairwise
from typing import Any, Literal
from urllib.parse import urlsplit

from pydantic import SecretStr

from llm_fallback._imports import is_found
from llm_fallback.errors import Location, did_you_mean
from llm_fallback.plan.fleet_checks import file_of_two, unknown_processes, unwise_fleet
from llm_fallback.plan.pricing import FIRST_GUESS_TOKENS
from llm_fallback.plan.profiles import lost_by_falling_back
from llm_fallback.plan.provider_credentials import AZURE_KEYS, lacks_cloud_credentials, missing_key
from llm_fallback.plan.resolve import misaddressed, with_two_logins
from llm_fallback.spec import Spec, load_spec
from llm_fallback.spec.consistency import is_address
from llm_fallback.spec.entries import Chain, Deployment
from llm_fallback.spec.load import Source
from llm_fallback.spec.locations import Path, children, dotted
from llm_fallback.spec.overrides import misspelt, mistaken_parameters
from llm_fallback.spec.providers import LOCAL, PROVIDERS, misspelt_provider, split_model, unknown_provider
from llm_fallback.spec.secrets import is_secret_name, secrets_of_address
from llm_fallback.spec.settings import Price, Timeouts
from llm_fallback.spec.variables import references

Severity = Literal["error", "warning", "note"]
_Results = Iterator[tuple[Path, str]]

_BARE_VARIABLE = re.compile(r"\$[A-Z_][A-Z0-9_]*")
_SHORTEST_SECRET = 8
"""In characters; shorter keys are placeholders such as `EMPTY`."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing worth changing in a spec."""

    severity: Severity
    path: str
    message: str
    file: str | None = None
    line: int | None = None

    def __str__(self) -> str:
        return f"{self.severity}: {Location(self.file, self.line).with_path(self.path)}: {self.message}"


def check(source: Source, *, env: bool = False, environ: Mapping[str, str] | None = None) -> list[Finding]:
    """Everything unwise in a spec: errors, then warnings, then notes on what cannot be told from here, and on
    what its sources contained besides a spec.

    `source` is as for `load_spec`, with the same exceptions. `env`: unset variables are errors rather than warnings.
    `environ` replaces the process's environment.
    """
    spec = load_spec(source)
    environment = spec.environment(os.environ if environ is None else environ)
    findings = [
        *_findings(spec, "error", _nothing_to_ask(spec)),
        *_findings(spec, "error", file_of_two(spec, environment)),
        *_findings(spec, "error", with_two_logins(spec, environment)),
        *_findings(spec, "error", _misspelt_provider(spec)),
        *_findings(spec, "error" if env else "warning", _of_variables(spec, environment)),
        *_findings(spec, "warning", joined.from_iterable(check_one(spec) for check_one in _CHECKS)),
        *_findings(spec, "warning", unwise_fleet(spec, environment)),
    ]
    notes = [
        *_findings(spec, "note", _own_finish_reasons(spec)),
        *_findings(spec, "note", unknown_processes(spec)),
        *_findings(spec, "note", _no_cloud_credentials(spec, environment)),
        *_findings(spec, "note", _no_price(spec)),
        *(Finding(note.severity, note.path, note.text, note.file, note.line) for note in spec.notes),
    ]
    return sorted([*findings, *notes], key=_in_order)


def _in_order(finding: Finding) -> tuple[int, str, int]:
    """By severity, then by line."""
    return _SEVERITIES.index(finding.severity), finding.file or "", finding.line or 0


_SEVERITIES = ("error", "warning", "note")


def _findings(spec: Spec, severity: Severity, results: _Results) -> Iterator[Finding]:
    for path, message in results:
        location = spec.locations.find(path)
        yield Finding(severity, dotted(path), message, location.file, location.line)


def _nothing_to_ask(spec: Spec) -> _Results:
    """A spec without a chain, and chains whose deployments are never asked."""
    if not spec.chains:
        yield ("chains",), "there is no chain, so nothing can be asked"
    for name, chain in spec.chains.items():
        if all(spec.deployments[member].weight == 0 for tier in chain.tiers for member in tier):
            yield ("chains", name, "tiers"), "every deployment has weight 0, so none is ever asked"


def _of_variables(spec: Spec, environ: Mapping[str, str]) -> _Results:
    """What only the environment can tell."""
    yield from _unset(spec, environ)
    yield from misaddressed(spec, environ)
    yield from _no_key(spec, environ)
    yield from _azure_without_address(spec, environ)


def _unset(spec: Spec, environ: Mapping[str, str]) -> _Results:
    """Variables that are named and not set."""
    for path, reference in spec.references():
        if reference.value(environ) is None:
            yield path, reference.missing()


def _no_key(spec: Spec, environ: Mapping[str, str]) -> _Results:
    """Hosted deployments without a key, neither their own nor in their provider's variable."""
    for name, deployment in spec.deployments.items():
        if deployment.api_key is not None or _has_login(deployment):
            continue
        provider = _provider(deployment) or ""
        if deployment.api_base is None and (variables := missing_key(provider, deployment.params, environ)):
            yield ("deployments", name), f"has no api_key, and {variables} is not set"
        if deployment.api_base is not None and provider == "azure" and missing_key(provider, deployment.params, {}):
            remedy = f"write api_key: ${{{AZURE_KEYS[0]}}}"
            yield (
                ("deployments", name),
                f"has no api_key, and with an api_base of its own no variable is read; {remedy}",
            )


def _azure_without_address(spec: Spec, environ: Mapping[str, str]) -> _Results:
    """Azure's deployments without what every request to one names, which litellm also takes from variables."""
    for name, deployment in spec.deployments.items():
        if _provider(deployment) not in ("azure", "azure_text"):
            continue
        if deployment.api_base is None and not environ.get("AZURE_API_BASE"):
            remedy = "write it as in 'https://NAME.openai.azure.com'"
            yield ("deployments", name), f"has no api_base, and AZURE_API_BASE is not set; {remedy}"
        if "api_version" not in spec.params(name) and not environ.get("AZURE_API_VERSION"):
            remedy = "write the one your deployment was tried with"
            yield (
                ("deployments", name),
                f"has no params.api_version, and AZURE_API_VERSION is not set: litellm chooses one; {remedy}",
            )


def _no_cloud_credentials(spec: Spec, environ: Mapping[str, str]) -> _Results:
    """Deployments in Amazon's or Google's cloud for which no credentials are to be seen."""
    for name, deployment in spec.deployments.items():
        is_asked_for = deployment.api_key is None and deployment.api_base is None
        if is_asked_for and lacks_cloud_credentials(_provider(deployment) or "", deployment.params, environ):
            yield (
                ("deployments", name),
                "no credentials are in its params, the environment or the usual files; "
                "it answers only where the machine has an identity",
            )


def _no_price(spec: Spec) -> _Results:
    """Servers of one's own whose price nobody can know: of hosted models litellm's list may have one."""
    own = [
        name
        for name, deployment in spec.deployments.items()
        if (deployment.backend is not None or _provider(deployment) in LOCAL)
        and deployment.price is None
        and deployment.base_model is None
    ]
    if own:
        names = ", ".join(own)
        yield ("deployments", own[0]), f"what calls of {names} cost is not known; write price, or price: free"


def _has_login(deployment: Deployment) -> bool:
    """Whether a header of its own logs it in."""
    headers = [deployment.params.get(word) for word in ("headers", "extra_headers")]
    return any(is_secret_name(name) for found in headers if isinstance(found, Mapping) for name in found)


def _own_finish_reasons(spec: Spec) -> _Results:
    """Words by which a reply counts as whole because the spec says so."""
    for name, deployment in spec.deployments.items():
        for word, meaning in deployment.finish_reasons.items():
            path = ("deployments", name, "finish_reasons", word)
            yield path, f"a reply that ends by {word!r} counts as whole ({meaning}) because the spec says so"


def _unused(spec: Spec) -> _Results:
    """Deployments in no chain."""
    used = {name for chain in spec.chains.values() for name in chain.deployments()}
    for name in spec.deployments if spec.chains else ():
        if name not in used:
            yield ("deployments", name), "no chain asks it"


def _alone(spec: Spec) -> _Results:
    """Chains of one deployment."""
    for name, chain in spec.chains.items():
        if len(chain.deployments()) == 1:
            yield (
                ("chains", name, "tiers"),
                f"{chain.deployments()[0]!r} is alone: there is nothing to fall back to",
            )


def _out_of_rotation(spec: Spec) -> _Results:
    """Tiers whose deployments all have weight 0."""
    for name, chain in spec.chains.items():
        for index, tier in enumerate(chain.tiers):
            if all(spec.deployments[member].weight == 0 for member in tier):
                yield (
                    ("chains", name, "tiers", index),
                    "every deployment has weight 0: the tier is passed over",
                )


def _attempt_beyond_total(spec: Spec) -> _Results:
    """Limits of time that never apply, because a wider one is shorter."""
    for name, chain in spec.chains.items():
        for deployment in chain.deployments():
            limits, path = spec.timeouts(name, deployment), ("chains", name, "timeouts")
            if _written(spec, name, deployment, "attempt_s") and _beyond(limits.attempt_s, limits.total_s):
                yield (
                    path,
                    f"attempt_s {limits.attempt_s:g} of {deployment!r} is beyond total_s {limits.total_s:g}",
                )
            if _beyond(limits.first_token_s, limits.attempt_s):
                yield (
                    path,
                    f"first_token_s {limits.first_token_s:g} of {deployment!r} is beyond its attempt_s",
                )


def _beyond(inner: float | None, outer: float | None) -> bool:
    return inner is not None and outer is not None and inner > outer


def _never_reached(spec: Spec) -> _Results:
    """Chains whose first deployments, when they hang, leave the last ones no time."""
    for name, chain in spec.chains.items():
        order = [member for tier in chain.tiers for member in tier if spec.deployments[member].weight > 0]
        attempts = [_attempt(spec.timeouts(name, member)) for member in order]
        total = spec.timeouts(name).total_s
        reached = sum(sum(attempts[:index]) < total for index in range(len(order)))
        if _written_anywhere(spec, name) and reached < len(order):
            spent = " + ".join(f"{attempt:g}" for attempt in attempts[:reached])
            message = f"if deployments hang, only {reached} of {len(order)} can be asked"
            yield (
                ("chains", name, "timeouts"),
                f"{message}: their attempt_s ({spent}) use up total_s {total:g}",
            )


def _attempt(timeouts: Timeouts) -> float:
    return timeouts.total_s if timeouts.attempt_s is None else timeouts.attempt_s


def _written_anywhere(spec: Spec, name: str) -> bool:
    return _written(spec, name, None, "total_s") or any(
        _written(spec, name, member, "attempt_s") for member in spec.chains[name].deployments()
    )


def _written(spec: Spec, name: str, deployment: str | None, field: str) -> bool:
    of_deployment = None if deployment is None else spec.deployments[deployment].timeouts
    layers = (spec.defaults.timeouts, spec.chains[name].timeouts, of_deployment)
    return any(layer is not None and field in layer.model_fields_set for layer in layers)


def _waits(spec: Spec) -> _Results:
    """Waits whose first is longer than their longest."""
    for name in spec.chains:
        retries = spec.retries(name)
        if retries.wait_initial_s > retries.wait_max_s:
            first, longest = retries.wait_initial_s, retries.wait_max_s
            yield ("chains", name, "retries"), f"wait_initial_s {first:g} is beyond wait_max_s {longest:g}"


def _small_window(spec: Spec) -> _Results:
    """Deployments for long prompts that take no longer ones."""
    for name, chain in spec.chains.items():
        usual = [spec.deployments[member].context_window for tier in chain.tiers for member in tier]
        widest = max((window for window in usual if window is not None), default=None)
        for index, tier in enumerate(chain.on_context_window or ()):
            for member in tier:
                window = spec.deployments[member].context_window
                if widest is not None and window is not None and window <= widest:
                    path = ("chains", name, "on_context_window", index)
                    yield path, f"{member!r} takes {window} tokens, no more than the tiers' {widest}"


def _not_found(spec: Spec) -> _Results:
    """Import paths that lead nowhere."""
    validators = {("chains", name, "accept"): spec.accept(name) for name in spec.chains}
    outputs = {("runnables", name, "output"): runnable.output for name, runnable in spec.runnables.items()}
    for path, written in {**validators, **outputs}.items():
        if isinstance(written, str) and ":" in written and not is_found(written):
            module = written.partition(":")[0]
            yield path, f"no module is called {module!r} here; it has to be importable where the model is built"


def _in_clear(spec: Spec) -> _Results:
    """Secrets written into a file."""
    holders: dict[Path, Any] = {
        ("deployments", name): {"api_key": deployment.api_key, "params": deployment.params}
        for name, deployment in spec.deployments.items()
    }
    if spec.fleet is not None:
        holders["fleet",] = {"secret": spec.fleet.secret}
    for holder, values in holders.items():
        for path, secret in _secrets(values, holder):
            if spec.locations.find(path).file and _is_literal(secret.get_secret_value()):
                yield path, "a secret in clear; write ${NAME} and set the variable"


def _secrets(value: Any, path: Path) -> Iterator[tuple[Path, SecretStr]]:
    if isinstance(value, SecretStr):
        yield path, value
    for key, item in children(value):
        yield from _secrets(item, (*path, key))


def _is_literal(secret: str) -> bool:
    return len(secret) >= _SHORTEST_SECRET and not references(secret) and not _BARE_VARIABLE.fullmatch(secret)


def _bare_variable(spec: Spec) -> _Results:
    """`$NAME` where `${NAME}` was meant."""
    for name, deployment in spec.deployments.items():
        for field in ("api_key", "api_base", "model"):
            value = getattr(deployment, field)
            text = value.get_secret_value() if isinstance(value, SecretStr) else value
            if isinstance(text, str) and _BARE_VARIABLE.fullmatch(text):
                yield ("deployments", name, field), f"{text} is taken as it stands; write ${{{text[1:]}}}"


def _password_in_address(spec: Spec) -> _Results:
    """Passwords and keys in addresses."""
    for name, deployment in spec.deployments.items():
        if any(not references(secret) for secret in secrets_of_address(deployment.api_base or "")):
            yield (
                ("deployments", name, "api_base"),
                "a password or key in an address is shown in logs; write it as api_key",
            )


def _unlikely_address(spec: Spec) -> _Results:
    """Addresses where no server can be, or that name one page of it."""
    for name, deployment in spec.deployments.items():
        api_base = deployment.api_base or ""
        flaw = None if references(api_base) or not is_address(api_base) else address_flaw(api_base)
        if flaw is not None:
            yield ("deployments", name, "api_base"), flaw


_PAGES = ("/chat/completions", "/completions", "/responses", "/messages", "/models")


def address_flaw(address: str) -> str | None:
    """What is wrong with an HTTP address as a server's, and what to write; None where nothing is."""
    parts = urlsplit(address)
    try:
        has_port = parts.port != 0
    except ValueError:
        has_port = False
    if not has_port:
        return f"{parts.netloc.rpartition(':')[2]!r} is no port; one is a number from 1 to 65535"
    if not parts.hostname or any(char.isspace() for char in address):
        return "names no host; write it as in 'http://host:8000'"
    page = next((page for page in _PAGES if parts.path.rstrip("/").endswith(page)), None)
    if page is not None:
        return f"ends in {page}, which is added by itself; write the address without it"
    return None


def _parameters(spec: Spec) -> _Results:
    """Request parameters that are misspelt, or have a value of no type that they take."""
    entries: list[tuple[Path, Mapping[str, Any]]] = [(("defaults", "params"), spec.defaults.params)]
    entries += [(("deployments", name, "params"), each.params) for name, each in spec.deployments.items()]
    for path, params in entries:
        for word in params:
            if meant := misspelt(word):
                yield (*path, word), f"no parameter is known as {word!r}; {meant} It is sent as it is"
        # What has a variable in it is a secret here, and a text until it is resolved.
        plain = {word: value for word, value in params.items() if not isinstance(value, SecretStr)}
        for problem in mistaken_parameters(plain):
            yield (*path, *problem.path), problem.text


def _free_but_hosted(spec: Spec) -> _Results:
    """Hosted deployments that are called free."""
    for name, deployment in spec.deployments.items():
        provider = _provider(deployment)
        is_self_hosted = deployment.api_base is not None or provider is None or provider in LOCAL
        if deployment.price == "free" and not is_self_hosted and not deployment.model.endswith(":free"):
            yield (
                ("deployments", name, "price"),
                f"{provider} bills its calls; as `free` budgets do not see them",
            )


def _budget_of_no_day(spec: Spec) -> _Results:
    """Budgets that limit nothing, or keep what they do not limit."""
    for name in spec.chains:
        budget = spec.budget(name)
        if budget is not None and budget.file is not None and budget.usd_per_day is None:
            yield ("chains", name, "budget", "file"), "keeps what the day has cost, and there is no usd_per_day"
        if budget is not None and not budget.limits:
            yield ("chains", name, "budget"), "limits nothing: it has no usd_per_call, usd_per_run or usd_per_day"


def _budget_out_of_reach(spec: Spec) -> _Results:
    """Limits of money that another one always ends first."""
    for name in spec.chains:
        budget = spec.budget(name)
        limits = list(budget.limits.items()) if budget is not None else []
        for (short, less), (long, more) in pairwise(limits):
            if less > more:
                yield (
                    ("chains", name, "budget", f"usd_per_{short}"),
                    f"${less:f} a {short} is never reached: ${more:f} a {long} ends it before",
                )


def _budget_of_no_attempt(spec: Spec) -> _Results:
    """Budgets that no attempt fits into, by the prices that the spec declares."""
    for name, chain in spec.chains.items():
        budget = spec.budget(name)
        if budget is None or not budget.limits:
            continue
        smallest, least = min(budget.limits.items(), key=lambda limit: limit[1]), _cheapest_attempt(spec, chain)
        if least is not None and least > smallest[1]:
            yield (
                ("chains", name, "budget", f"usd_per_{smallest[0]}"),
                f"${smallest[1]:f} a {smallest[0]} is less than the cheapest attempt may cost, ${least:f}: "
                "every call ends with BudgetExceeded; raise it, or limit max_tokens",
            )


def _cheapest_attempt(spec: Spec, chain: Chain) -> Decimal | None:
    """What a first attempt with an empty prompt is taken to cost, in US dollars, where it costs least; None where a
    price is not declared here."""
    costs: list[Decimal] = []
    for name in chain.deployments():
        price = spec.deployments[name].price
        if not isinstance(price, Price) or price.output_per_million is None:
            return None
        tokens = spec.params(name).get("max_tokens", FIRST_GUESS_TOKENS)
        if not isinstance(tokens, int):
            return None
        costs.append((price.per_request or 0) + tokens * price.output_per_million / 1_000_000)
    return min(costs, default=None)


def _zone_of_nobody(spec: Spec) -> _Results:
    """Zones of a chain that no deployment is in, as one that is misspelt."""
    known = [deployment.zone for deployment in spec.deployments.values() if deployment.zone is not None]
    for name in spec.chains:
        for zone in sorted((spec.zones(name) or frozenset()).difference(known)):
            remedy = did_you_mean(zone, known)
            yield ("chains", name, "zones"), f"no deployment is in zone {zone!r}" + (f"; {remedy}" if remedy else "")


def _misspelt_provider(spec: Spec) -> _Results:
    """Models of providers whose names are clearly meant otherwise: litellm asks none of these."""
    for name, deployment in spec.deployments.items():
        provider = _provider(deployment)
        if provider is not None and provider not in PROVIDERS and misspelt_provider(provider):
            has_address = deployment.api_base is not None
            yield ("deployments", name, "model"), unknown_provider(provider, has_address=has_address)


def _unknown_provider(spec: Spec) -> _Results:
    """Models of other providers that are not known here; litellm gains some with every version."""
    for name, deployment in spec.deployments.items():
        provider = _provider(deployment)
        if provider is not None and provider not in PROVIDERS and not misspelt_provider(provider):
            has_address = deployment.api_base is not None
            yield ("deployments", name, "model"), unknown_provider(provider, has_address=has_address)


def _provider(deployment: Deployment) -> str | None:
    """litellm's provider; None if there is a backend, or the model contains a variable."""
    if deployment.backend is not None or references(deployment.model):
        return None
    return split_model(deployment.model)[0]


_CHECKS = (
    _unused,
    _alone,
    _out_of_rotation,
    _attempt_beyond_total,
    _never_reached,
    _waits,
    _small_window,
    lost_by_falling_back,
    _not_found,
    _in_clear,
    _bare_variable,
    _password_in_address,
    _unlikely_address,
    _parameters,
    _free_but_hosted,
    _budget_of_no_day,
    _budget_out_of_reach,
    _budget_of_no_attempt,
    _zone_of_nobody,
    _unknown_provider,
)
