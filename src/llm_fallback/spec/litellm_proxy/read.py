"""A proxy's configuration as the data of a spec; its two settings sections as the spec's defaults."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from llm_fallback.errors import Location
from llm_fallback.spec.error_messages import OWNED_PARAMETERS
from llm_fallback.spec.litellm_proxy.draft import NO_COUNTERPART, Draft, LossReport, Section
from llm_fallback.spec.litellm_proxy.fallbacks import DEFAULT_FALLBACK, Fallbacks
from llm_fallback.spec.litellm_proxy.read_chains import most_hops, put_chains
from llm_fallback.spec.litellm_proxy.read_deployments import group_tiers, put_deployments
from llm_fallback.spec.litellm_proxy.read_rows import drop_invalid_defaults, read_rows
from llm_fallback.spec.litellm_proxy.words import (
    ALREADY_SO,
    NOT_OF_A_REQUEST,
    ROUTE_BY_WORD,
    breaker_failures,
    convert_references,
    parse_number,
)
from llm_fallback.spec.locations import LocationMap, Note, Path


@dataclass(frozen=True, slots=True)
class Reading:
    """A configuration as a spec: its data, the places of its parts, and what has no place in it."""

    data: dict[str, Any]
    locations: Mapping[Path, Location]
    notes: tuple[Note, ...]


def read_config(data: Mapping[str, Any], locations: LocationMap) -> Reading:
    """The spec that a configuration amounts to; without `deployments` if no model of it can be one."""
    losses, config = LossReport(), Section(data, ())
    settings = Settings(config, losses)
    defaults = read_defaults(settings, losses)
    spec = Draft()
    if defaults.data:
        spec.put(("defaults",), defaults.data, next(iter(defaults.origins.values())))
        spec.origins.update({("defaults", *path): origin for path, origin in defaults.origins.items()})
    kinds = {route: Fallbacks(*settings.take(word), losses) for word, route in ROUTE_BY_WORD.items()}
    _put_default_fallbacks(kinds["tiers"], settings)
    aliases = _aliases(settings)
    rows = read_rows(config.take("model_list"), _credentials(config), losses)
    groups = group_tiers(list(rows), losses)
    deployments = put_deployments(spec, groups, list(kinds.values()))
    put_chains(spec, deployments, kinds, aliases, losses)
    hops, path = settings.take("max_fallbacks")
    if isinstance(hops, int) and hops < most_hops(spec):
        losses.add(path, "every fallback is tried here, however many there are")
    if config.take("include") is not None:
        losses.add(("include",), "is not read here: give its files as further sources")
    settings.report_unused()
    losses.report_unused(config, "is the proxy server's own and has no place here")
    known = {path: locations.find(origin) for path, origin in spec.origins.items()}
    return Reading(spec.data, known, losses.notes(locations))


def _credentials(config: Section) -> dict[str, Any]:
    entries = config.take("credential_list")
    found = [Section(entry, ()) for entry in entries] if isinstance(entries, list) else []
    return {str(entry.take("credential_name")): dict(_values(entry)) for entry in found}


def _values(entry: Section) -> Iterator[tuple[str, Any]]:
    return Section(entry.take("credential_values"), ()).unused()


def _put_default_fallbacks(fallbacks: Fallbacks, settings: Settings) -> None:
    """`default_fallbacks` stand in for whoever has no entry of its own."""
    targets, path = settings.take("default_fallbacks")
    if targets is not None:
        fallbacks.add(DEFAULT_FALLBACK, targets, path)


def _aliases(settings: Settings) -> dict[str, str]:
    value, path = settings.take("model_group_alias")
    targets = dict(Section(value, path).unused())
    return {name: str(to.get("model") if isinstance(to, Mapping) else to) for name, to in targets.items()}


class Settings:
    """Both sections, of which the router's wins."""

    def __init__(self, config: Section, losses: LossReport) -> None:
        self._sections = tuple(Section(config.take(name), (name,)) for name in ("router_settings", "litellm_settings"))
        self._losses = losses

    def take(self, word: str) -> tuple[Any, Path]:
        """What holds for a word, and where it stands; a second value is listed."""
        values = [(section.take(word), (*section.path, word)) for section in self._sections]
        (value, path), (second, its_path) = values
        if value is None:
            return second, its_path
        if second is not None:
            self._losses.add(its_path, "router_settings has the same word, which holds")
        return value, path

    def report_unused(self) -> None:
        """List what was not taken."""
        for section in self._sections:
            self._losses.report_unused(section, NO_COUNTERPART)


_DEFAULTS: Mapping[str, tuple[Path, Callable[[Any], Any]]] = {
    "num_retries": (("retries", "max"), parse_number),
    "stream_timeout": (("timeouts", "first_token_s"), parse_number),
    "allowed_fails": (("breaker", "failures"), lambda allowed: breaker_failures(parse_number(allowed))),
    "default_max_parallel_requests": (("limits", "max_parallel"), parse_number),
}


def read_defaults(settings: Settings, losses: LossReport) -> Draft:
    """What goes for every chain and deployment."""
    draft = Draft()
    for word, (path, convert) in _DEFAULTS.items():
        value, origin = settings.take(word)
        draft.put(path, convert(value), origin)
    _put_timeout(draft, settings, losses)
    _put_wait(draft, settings)
    _put_cooldown(draft, settings)
    _put_parameters(draft, settings, losses)
    drop_invalid_defaults(draft, losses)
    for word, so in ALREADY_SO.items():
        value, origin = settings.take(word)
        if value not in (None, so):
            losses.add(origin, f"{value!r} {NO_COUNTERPART}")
    return draft


def _put_timeout(draft: Draft, settings: Settings, losses: LossReport) -> None:
    """Both words bound one attempt; `request_timeout` is the one LiteLLM heeds where both are given."""
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


_LONGEST_WAIT_S = 8
"""The default of `retries.wait_max_s`."""


def _put_cooldown(draft: Draft, settings: Settings) -> None:
    cooldown, origin = settings.take("cooldown_time")
    disabled, why = settings.take("disable_cooldowns")
    if disabled is True:
        draft.put(("breaker",), "off", why)
    elif parse_number(cooldown) not in (None, 0):  # LiteLLM takes 0 for its own default.
        draft.put(("breaker", "cooldown_s"), parse_number(cooldown), origin)


def _put_parameters(draft: Draft, settings: Settings, losses: LossReport) -> None:
    value, path = settings.take("default_litellm_params")
    for word, setting in Section(value, path).unused():
        if word in NOT_OF_A_REQUEST or word in OWNED_PARAMETERS:
            losses.add((*path, word), NO_COUNTERPART)
        else:
            draft.put(("params", word), convert_references(setting), (*path, word))
