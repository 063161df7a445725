"""`router_settings` and `litellm_settings` as the defaults of a spec."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from llm_fallback.litellm_config.fitting import fit_defaults
from llm_fallback.litellm_config.sections import NO_COUNTERPART, Draft, Listing, Section
from llm_fallback.litellm_config.texts import number, ours
from llm_fallback.litellm_config.words import ALREADY_SO, NOT_OF_A_REQUEST, failures
from llm_fallback.spec.marks import Path
from llm_fallback.spec.translations import OWNED_PARAMETERS


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
