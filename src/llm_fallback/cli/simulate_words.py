"""How troubles, times and shares are written on the command line."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from typing import cast

import click

from llm_fallback.events import Failure
from llm_fallback.simulate import Trouble

_NUMBER = r"(\d+(?:\.\d+)?)"
_TIME = re.compile(rf"{_NUMBER}(ms|s|m|h)?")
_RATE = re.compile(rf"{_NUMBER}(?:/(s|m|min|h))?")
_PERCENT = re.compile(rf"{_NUMBER}%?")
_SPAN = re.compile(r"@([^@-]*)-([^@-]*)$")
_SECONDS = {None: 1.0, "ms": 0.001, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0}


def troubles(down: Iterable[str], fail: Iterable[str], slow: Iterable[str]) -> list[Trouble]:
    """The troubles that the three options name, in this order. Raises BadParameter for words that are none."""
    return [
        *(_trouble(text, "--down") for text in down),
        *(_trouble(text, "--fail") for text in fail),
        *(_trouble(text, "--slow") for text in slow),
    ]


def _trouble(text: str, option: str) -> Trouble:
    span = _SPAN.search(text)
    begins = seconds(span[1], option) if span else 0.0
    ends = seconds(span[2], option) if span else math.inf
    name, equals, rest = (text[: span.start()] if span else text).partition("=")
    if bool(equals) is (option == "--down"):
        raise click.BadParameter(f"{text!r}: write {_FORMS[option]}", param_hint=option)
    match option:
        case "--down":
            return Trouble(name, "connection", begins_s=begins, ends_s=ends)
        case "--slow":
            return Trouble(name, first_token_s=seconds(rest, option), begins_s=begins, ends_s=ends)
    failure, colon, share = rest.partition(":")
    met = percent(share, option) if colon else 1.0
    # Whether it is one is for the simulation to say, which knows the nearest.
    return Trouble(name, cast("Failure", failure), met, begins_s=begins, ends_s=ends)


_FORMS = {
    "--down": "NAME, as in --down claude",
    "--fail": "NAME=FAILURE[:PERCENT], as in --fail claude=rate_limited:30%",
    "--slow": "NAME=TIME, as in --slow claude=4s",
}


def seconds(text: str, option: str) -> float:
    """A time: 4s, 500ms, 2m, 1h; a bare number is seconds."""
    found = _TIME.fullmatch(text)
    if found is None:
        raise click.BadParameter(f"{text!r} is no time; write one as in 4s, 500ms or 2m", param_hint=option)
    return float(found[1]) * _SECONDS[found[2]]


def rate(text: str, option: str) -> float:
    """Calls a second: 50/s, 600/m; a bare number is a second's."""
    found = _RATE.fullmatch(text)
    if found is None or not float(found[1]):
        raise click.BadParameter(f"{text!r} is no rate; write one as in 50/s or 600/m", param_hint=option)
    return float(found[1]) / _SECONDS[found[2]]


def percent(text: str, option: str) -> float:
    """A share of one: 30% or 30 is 0.3."""
    found = _PERCENT.fullmatch(text)
    if found is None or float(found[1]) > 100:
        raise click.BadParameter(f"{text!r} is no percentage from 0% to 100%", param_hint=option)
    return float(found[1]) / 100
