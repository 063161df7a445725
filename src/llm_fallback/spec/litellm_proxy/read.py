"""Reads a proxy's configuration as a spec document. Its two settings sections become the spec's defaults."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from llm_fallback.spec.error_messages import OWNED_PARAMETERS
from llm_fallback.spec.litellm_proxy.draft import NO_COUNTERPART, Draft, LossReport, Section
from llm_fallback.spec.litellm_proxy.fallbacks import DEFAULT_FALLBACK, Fallbacks
from llm_fallback.spec.litellm_proxy.read_chains import most_hops, put_chains
from llm_fallback.spec.litellm_proxy.read_deployments import group_tiers, put_deployments
from llm_fallback.spec.litellm_proxy.read_rows import drop_invalid_defaults, read_rows
from llm_fallback.spec.litellm_proxy.words import (
    ALREADY_SO,
    NOT_OF_A_REQUEST,
    ROUTE_BY_KEY,
    breaker_failures,
    convert_references,
    is_reference,
    parse_number,
)
from llm_fallback.spec.locations import LocationMap, Path, children, paths
from llm_fallback.spec.model import Spec
from llm_fallback.spec.parsers import Document
from llm_fallback.spec.variables import references

_DEFAULTS: Mapping[str, tuple[Path, Callable[[Any], Any]]] = {
    "num_retries": (("retries", "max"), parse_number),
    "stream_timeout": (("timeouts", "first_token_s"), parse_number),
    "allowed_fails": (("breaker", "failures"), lambda allowed: breaker_failures(parse_number(allowed))),
    "default_max_parallel_requests": (("limits", "max_parallel"), parse_number),
}
"""Keys that become a default as they are: its path, and the conversion of the value."""

_SHARED = ("redis_url", "redis_host", "redis_port", "redis_password", "redis_db")
_FLEET = "what processes share is `fleet.store` here, as in redis://:${REDIS_PASSWORD}@HOST:6379"
_OWN_SECTIONS = ("serve", "fleet")
"""Sections of a spec that a configuration may have beside its own."""
_KEY_VARIABLE = "LITELLM_MASTER_KEY"
"""Where a proxy looks for its key if its configuration names none."""

_LONGEST_WAIT_S = 8
"""The default of `retries.wait_max_s`."""


def read_config(data: Mapping[str, Any], locations: LocationMap) -> Document:
    """The spec that a configuration amounts to. It has no `deployments` if no row of `model_list` can be one."""
    losses, config = LossReport(), Section(data, ())
    settings = Settings(config, losses)
    defaults = read_defaults(settings, losses)
    spec = Draft()
    if defaults.data:
        spec.put(("defaults",), defaults.data, next(iter(defaults.origins.values())))
        spec.origins.update({("defaults", *path): origin for path, origin in defaults.origins.items()})
    kinds = {route: Fallbacks(*settings.take(key), losses) for key, route in ROUTE_BY_KEY.items()}
    targets, path = settings.take("default_fallbacks")
    if targets is not None:
        kinds["tiers"].add(DEFAULT_FALLBACK, targets, path)
    aliases = _aliases(settings)
    variables = _variables(config)
    rows = read_rows(config.take("model_list"), _credentials(config), losses, variables)
    groups = group_tiers(list(rows), losses)
    deployments = put_deployments(spec, groups, list(kinds.values()))
    put_chains(spec, deployments, kinds, aliases, losses)
    hops, path = settings.take("max_fallbacks")
    if isinstance(hops, int) and hops < most_hops(spec):
        losses.add(path, "every fallback is tried here, however many there are")
    if config.take("include") is not None:
        losses.add(("include",), "is not read here: give its files as further sources")
    for name in sorted(variables.keys() - set(_referred_to(spec.data))):
        losses.add(("environment_variables", name), "is never exported to the process here, and nothing refers to it")
    _put_own_sections(spec, config)
    general = Section(config.take("general_settings"), ("general_settings",))
    _put_caller_key(spec, general, variables, losses)
    settings.report_unused()
    for key in Spec.model_fields:
        if config.take(key) is not None:
            losses.add((key,), "belongs in a file of its own, laid over this one: -f config.yaml -f FILE", "warning")
    for section in (general, config):
        losses.report_unused(section, "is the proxy server's own and has no place here")
    spec_locations = {path: locations.find(origin) for path, origin in spec.origins.items()}
    return Document(spec.data, spec_locations, notes=losses.notes(locations), variables=variables)


def _put_own_sections(spec: Draft, config: Section) -> None:
    for name in _OWN_SECTIONS:
        value = config.take(name)
        if value is not None:
            spec.data[name] = dict(value) if isinstance(value, Mapping) else value
            spec.origins.update({path: path for path in paths(value, (name,))})


def _put_caller_key(spec: Draft, general: Section, variables: Mapping[str, str], losses: LossReport) -> None:
    """Write the proxy's key as one of `serve.keys`, unless those are written: whoever needed it needs it still."""
    key, origin = general.take("master_key"), (*general.path, "master_key")
    if key is None and _KEY_VARIABLE in variables:
        key, origin = f"os.environ/{_KEY_VARIABLE}", ("environment_variables", _KEY_VARIABLE)
    serve = spec.data.get("serve", {})
    if key is None or not isinstance(serve, Mapping):
        return
    if serve.get("keys"):
        losses.add(origin, "serve.keys is written, too, which holds")
    elif isinstance(key, str | int) and not isinstance(key, bool) and str(key).strip():
        spec.put(("serve", "keys"), [convert_references(str(key))], origin)
    else:
        losses.add(origin, "is no key: `serve` asks for none, and answers only its own machine", "warning")


def _variables(config: Section) -> dict[str, str]:
    """The variables that the configuration sets, as it writes them. LiteLLM puts them over the process's."""
    return {
        name: str(value) if not isinstance(value, str) or is_reference(value) else value.replace("$", "$$")
        for name, value in Section(config.take("environment_variables"), ()).unused()
    }


def _referred_to(value: Any) -> Iterator[str]:
    """The variables named in nested data."""
    if isinstance(value, str):
        yield from (reference.name for reference in references(value))
    for _, inner in children(value):
        yield from _referred_to(inner)


def _credentials(config: Section) -> dict[str, Any]:
    entries = config.take("credential_list")
    sections = [Section(entry, ()) for entry in entries] if isinstance(entries, list) else []
    return {
        str(section.take("credential_name")): dict(Section(section.take("credential_values"), ()).unused())
        for section in sections
    }


def _aliases(settings: Settings) -> dict[str, str]:
    value, path = settings.take("model_group_alias")
    targets = dict(Section(value, path).unused())
    return {name: str(to.get("model") if isinstance(to, Mapping) else to) for name, to in targets.items()}


class Settings:
    """`router_settings` and `litellm_settings`; the router's value wins where both have a key."""

    def __init__(self, config: Section, losses: LossReport) -> None:
        self._sections = tuple(Section(config.take(name), (name,)) for name in ("router_settings", "litellm_settings"))
        self._losses = losses

    def take(self, key: str) -> tuple[Any, Path]:
        """The value that holds for a key, and its path; a value that does not hold is reported."""
        values = [(section.take(key), (*section.path, key)) for section in self._sections]
        (value, path), (second, second_path) = values
        if value is None:
            return second, second_path
        if second is not None:
            self._losses.add(second_path, "router_settings has the same word, which holds")
        return value, path

    def report_unused(self) -> None:
        """Report the keys of both sections that were not taken."""
        for section in self._sections:
            self._losses.report_unused(section, NO_COUNTERPART)


def read_defaults(settings: Settings, losses: LossReport) -> Draft:
    """The defaults of the spec, from both settings sections."""
    draft = Draft()
    for key, (path, convert) in _DEFAULTS.items():
        value, origin = settings.take(key)
        draft.put(path, convert(value), origin)
    _put_timeout(draft, settings, losses)
    _put_wait(draft, settings)
    _put_cooldown(draft, settings)
    _put_parameters(draft, settings, losses)
    drop_invalid_defaults(draft, losses)
    for key in _SHARED:
        value, origin = settings.take(key)
        if value is not None:
            losses.add(origin, _FLEET)
    for key, so in ALREADY_SO.items():
        value, origin = settings.take(key)
        if value not in (None, so):
            losses.add(origin, f"{value!r} {NO_COUNTERPART}")
    return draft


def _put_timeout(draft: Draft, settings: Settings, losses: LossReport) -> None:
    """Both keys limit one attempt; LiteLLM uses `request_timeout` where both are given."""
    router, router_origin = settings.take("timeout")
    request, origin = settings.take("request_timeout")
    if request is not None and router is not None:
        losses.add(router_origin, "request_timeout bounds each attempt, and nothing the call, in LiteLLM")
    value, origin = (router, router_origin) if request is None else (request, origin)
    draft.put(("timeouts", "attempt_s"), parse_number(value), origin)


def _put_wait(draft: Draft, settings: Settings) -> None:
    wait, origin = settings.take("retry_after")
    seconds = parse_number(wait)
    if isinstance(seconds, int | float) and seconds > 0:
        draft.put(("retries", "wait_initial_s"), seconds, origin)
        if seconds > _LONGEST_WAIT_S:
            draft.put(("retries", "wait_max_s"), seconds, origin)


def _put_cooldown(draft: Draft, settings: Settings) -> None:
    cooldown, origin = settings.take("cooldown_time")
    disabled, disabled_origin = settings.take("disable_cooldowns")
    if disabled is True:
        draft.put(("breaker",), "off", disabled_origin)
    elif parse_number(cooldown) not in (None, 0):  # LiteLLM takes 0 for its own default.
        draft.put(("breaker", "cooldown_s"), parse_number(cooldown), origin)


def _put_parameters(draft: Draft, settings: Settings, losses: LossReport) -> None:
    value, path = settings.take("default_litellm_params")
    for key, setting in Section(value, path).unused():
        if key in NOT_OF_A_REQUEST or key in OWNED_PARAMETERS:
            losses.add((*path, key), NO_COUNTERPART)
        else:
            draft.put(("params", key), convert_references(setting), (*path, key))
