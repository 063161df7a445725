"""A proxy's configuration as the data of a spec; its two settings sections as the spec's defaults."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from llm_fallback.spec.error_messages import OWNED_PARAMETERS
from llm_fallback.spec.litellm_proxy.draft import NO_COUNTERPART, Draft, Listing, Section
from llm_fallback.spec.litellm_proxy.fallbacks import EVERYBODY, Fallbacks
from llm_fallback.spec.litellm_proxy.read_chains import most_hops, put_chains
from llm_fallback.spec.litellm_proxy.read_deployments import grouped, put_deployments
from llm_fallback.spec.litellm_proxy.read_rows import fit_defaults, read_rows
from llm_fallback.spec.litellm_proxy.words import ALREADY_SO, NOT_OF_A_REQUEST, ROUTES, failures, number, ours
from llm_fallback.spec.locations import Note, Path, Place, Places


@dataclass(frozen=True, slots=True)
class Reading:
    """A configuration as a spec: its data, the places of its parts, and what has no place in it."""

    data: dict[str, Any]
    places: Mapping[Path, Place]
    notes: tuple[Note, ...]


def read_config(data: Mapping[str, Any], places: Places) -> Reading:
    """The spec that a configuration amounts to; without `deployments` if no model of it can be one."""
    listing, config = Listing(), Section(data, ())
    settings = Settings(config, listing)
    defaults = read_defaults(settings, listing)
    spec = Draft()
    if defaults.data:
        spec.put(("defaults",), defaults.data, next(iter(defaults.origins.values())))
        spec.origins.update({("defaults", *path): origin for path, origin in defaults.origins.items()})
    kinds = {route: Fallbacks(*settings.take(word), listing) for word, route in ROUTES.items()}
    _put_everybody(kinds["tiers"], settings)
    aliases = _aliases(settings)
    rows = read_rows(config.take("model_list"), _credentials(config), listing)
    groups = grouped(list(rows), listing)
    deployments = put_deployments(spec, groups, list(kinds.values()))
    put_chains(spec, deployments, kinds, aliases, listing)
    hops, path = settings.take("max_fallbacks")
    if isinstance(hops, int) and hops < most_hops(spec):
        listing.add(path, "every fallback is tried here, however many there are")
    if config.take("include") is not None:
        listing.add(("include",), "is not read here: give its files as further sources")
    settings.rest()
    listing.rest(config, "is the proxy server's own and has no place here")
    known = {path: places.find(origin) for path, origin in spec.origins.items()}
    return Reading(spec.data, known, listing.notes(places))


def _credentials(config: Section) -> dict[str, Any]:
    entries = config.take("credential_list")
    found = [Section(entry, ()) for entry in entries] if isinstance(entries, list) else []
    return {str(entry.take("credential_name")): dict(_values(entry)) for entry in found}


def _values(entry: Section) -> Iterator[tuple[str, Any]]:
    return Section(entry.take("credential_values"), ()).left()


def _put_everybody(fallbacks: Fallbacks, settings: Settings) -> None:
    """`default_fallbacks` stand in for whoever has no entry of its own."""
    targets, path = settings.take("default_fallbacks")
    if targets is not None:
        fallbacks.add(EVERYBODY, targets, path)


def _aliases(settings: Settings) -> dict[str, str]:
    value, path = settings.take("model_group_alias")
    targets = dict(Section(value, path).left())
    return {name: str(to.get("model") if isinstance(to, Mapping) else to) for name, to in targets.items()}


class Settings:
    """Both sections, of which the router's wins."""

    def __init__(self, config: Section, listing: Listing) -> None:
        self._sections = tuple(Section(config.take(name), (name,)) for name in ("router_settings", "litellm_settings"))
        self._listing = listing

    def take(self, word: str) -> tuple[Any, Path]:
        """What holds for a word, and where it stands; a second value is listed."""
        values = [(section.take(word), (*section.path, word)) for section in self._sections]
        (value, path), (second, its_path) = values
        if value is None:
            return second, its_path
        if second is not None:
            self._listing.add(its_path, "router_settings has the same word, which holds")
        return value, path

    def rest(self) -> None:
        """List what was not taken."""
        for section in self._sections:
            self._listing.rest(section, NO_COUNTERPART)


_DEFAULTS: Mapping[str, tuple[Path, Callable[[Any], Any]]] = {
    "num_retries": (("retries", "max"), number),
    "stream_timeout": (("timeouts", "first_token_s"), number),
    "allowed_fails": (("breaker", "failures"), lambda allowed: failures(number(allowed))),
    "default_max_parallel_requests": (("limits", "max_parallel"), number),
}


def read_defaults(settings: Settings, listing: Listing) -> Draft:
    """What goes for every chain and deployment."""
    draft = Draft()
    for word, (path, convert) in _DEFAULTS.items():
        value, origin = settings.take(word)
        draft.put(path, convert(value), origin)
    _put_timeout(draft, settings, listing)
    _put_wait(draft, settings)
    _put_cooldown(draft, settings)
    _put_parameters(draft, settings, listing)
    fit_defaults(draft, listing)
    for word, so in ALREADY_SO.items():
        value, origin = settings.take(word)
        if value not in (None, so):
            listing.add(origin, f"{value!r} {NO_COUNTERPART}")
    return draft


def _put_timeout(draft: Draft, settings: Settings, listing: Listing) -> None:
    """Both words bound one attempt; `request_timeout` is the one LiteLLM heeds where both are given."""
    router, router_origin = settings.take("timeout")
    request, origin = settings.take("request_timeout")
    if request is not None and router is not None:
        listing.add(router_origin, "request_timeout bounds each attempt, and nothing the call, in LiteLLM")
    value, place = (router, router_origin) if request is None else (request, origin)
    draft.put(("timeouts", "attempt_s"), number(value), place)


def _put_wait(draft: Draft, settings: Settings) -> None:
    wait, origin = settings.take("retry_after")
    seconds = number(wait)
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
    elif number(cooldown) not in (None, 0):  # LiteLLM takes 0 for its own default.
        draft.put(("breaker", "cooldown_s"), number(cooldown), origin)


def _put_parameters(draft: Draft, settings: Settings, listing: Listing) -> None:
    value, path = settings.take("default_litellm_params")
    for word, setting in Section(value, path).left():
        if word in NOT_OF_A_REQUEST or word in OWNED_PARAMETERS:
            listing.add((*path, word), NO_COUNTERPART)
        else:
            draft.put(("params", word), ours(setting), (*path, word))
