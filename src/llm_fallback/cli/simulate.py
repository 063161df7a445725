"""`llm-fallback simulate`: what becomes of calls when deployments fail, in simulated time."""

from __future__ import annotations

import asyncio
import math
import re
from collections.abc import Iterable
from pathlib import Path
from typing import cast

import click

from llm_fallback.cli.shared import EXIT_FAILED, chain_named, chain_option, files_option, json_option, print_json
from llm_fallback.events import Failure
from llm_fallback.simulate import Outcome, Trouble, simulate
from llm_fallback.simulate.troubles import FAILURES
from llm_fallback.spec import Spec, load_spec

_FAILURES = f"One that fails so. FAILURE is one of {', '.join(FAILURES)}."
_SLOW = "One that begins its replies after this time; as in 10x: whose replies take so many times as long."
_NUMBER = r"(\d+(?:\.\d+)?)"
_TIMES = re.compile(rf"{_NUMBER}x")
_TIME = re.compile(rf"{_NUMBER}(ms|s|m|h)?")
_RATE = re.compile(rf"{_NUMBER}(?:/(s|m|min|h))?")
_PERCENT = re.compile(rf"{_NUMBER}%?")
_SPAN = re.compile(r"@([^@-]*)-([^@-]*)$")
_SECONDS = {None: 1.0, "ms": 0.001, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0}

_FORMS = {
    "--down": "NAME, as in --down claude",
    "--fail": "NAME=FAILURE[:PERCENT], as in --fail claude=rate_limited:30%",
    "--slow": "NAME=TIME, as in --slow claude=4s or --slow claude=10x",
}


@click.command("simulate")
@files_option
@chain_option
@click.option("--down", multiple=True, metavar="NAME", help="A deployment that refuses connections.")
@click.option("--fail", multiple=True, metavar="NAME=FAILURE[:PERCENT]", help=_FAILURES)
@click.option("--slow", multiple=True, metavar="NAME=TIME", help=_SLOW)
@click.option("--calls", default=1000, show_default=True, type=click.IntRange(1), help="How many calls are made.")
@click.option("--rate", "pace", default="10/s", show_default=True, metavar="N/s", help="How many come in a second.")
@click.option("--stream/--no-stream", default=True, show_default=True, help="Whether replies are streamed.")
@click.option("--seed", default=0, show_default=True, help="The same seed gives the same result.")
@click.option(
    "--allow", default="0%", show_default=True, metavar="PERCENT", help="Unanswered calls for which it still exits 0."
)
@json_option
@click.pass_context
def command(
    ctx: click.Context,
    files: tuple[Path, ...],
    chain: str | None,
    down: tuple[str, ...],
    fail: tuple[str, ...],
    slow: tuple[str, ...],
    calls: int,
    pace: str,
    stream: bool,
    seed: int,
    allow: str,
    as_json: bool,
) -> None:
    """Say what becomes of calls while deployments fail.

    \b
    llm-fallback simulate --down claude
    llm-fallback simulate --fail claude=rate_limited:30% --slow llama=4s
    llm-fallback simulate --slow llama=10x
    llm-fallback simulate --down claude@30s-2m --calls 5000 --rate 50/s

    The calls go as real ones would; the deployments and the clock are pretended, and nothing is sent.
    --down, --fail and --slow may be repeated, and end in @FROM-TO for a trouble that passes. A deployment without
    trouble begins after about half a second and writes for one and a half.

    Exit code 1 if more calls than --allow are left unanswered.
    """
    named, allowed, per_second = troubles(down, fail, slow), percent(allow, "--allow"), rate(pace, "--rate")
    spec = load_spec(*files)
    name = chain_named(spec, chain)
    outcome = _simulated(spec, name, named, calls=calls, per_second=per_second, streamed=stream, seed=seed)
    if as_json:
        print_json(outcome.as_dict())
    else:
        from llm_fallback.cli.simulate_table import show

        show(outcome)
    ctx.exit(EXIT_FAILED if outcome.unanswered > allowed * calls else 0)


def troubles(down: Iterable[str], fail: Iterable[str], slow: Iterable[str]) -> list[Trouble]:
    """The troubles that the three options name, in this order. Raises BadParameter for text that names none."""
    return [
        *(_trouble(text, "--down") for text in down),
        *(_trouble(text, "--fail") for text in fail),
        *(_trouble(text, "--slow") for text in slow),
    ]


def seconds(text: str, option: str) -> float:
    """A time in seconds: 4s, 500ms, 2m, 1h; a bare number is seconds."""
    match = _TIME.fullmatch(text)
    if match is None:
        raise click.BadParameter(f"{text!r} is no time; write one as in 4s, 500ms or 2m", param_hint=option)
    return float(match[1]) * _SECONDS[match[2]]


def rate(text: str, option: str) -> float:
    """Calls per second: 50/s, 600/m; a bare number is per second."""
    match = _RATE.fullmatch(text)
    if match is None or not float(match[1]):
        raise click.BadParameter(f"{text!r} is no rate; write one as in 50/s or 600/m", param_hint=option)
    return float(match[1]) / _SECONDS[match[2]]


def percent(text: str, option: str) -> float:
    """A share of one: 30% or 30 is 0.3."""
    match = _PERCENT.fullmatch(text)
    if match is None or float(match[1]) > 100:
        raise click.BadParameter(f"{text!r} is no percentage from 0% to 100%", param_hint=option)
    return float(match[1]) / 100


def _simulated(
    spec: Spec, chain: str, troubles: list[Trouble], *, calls: int, per_second: float, streamed: bool, seed: int
) -> Outcome:
    simulation = simulate(
        spec, chain=chain, troubles=troubles, calls=calls, per_second=per_second, streamed=streamed, seed=seed
    )
    try:
        return asyncio.run(simulation)
    except ValueError as error:
        raise click.UsageError(str(error)) from None


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
            if times := _TIMES.fullmatch(rest):
                return Trouble(name, times=float(times[1]), begins_s=begins, ends_s=ends)
            return Trouble(name, first_token_s=seconds(rest, option), begins_s=begins, ends_s=ends)
    failure, colon, share = rest.partition(":")
    affected = percent(share, option) if colon else 1.0
    # The simulation checks the failure, and suggests the nearest.
    return Trouble(name, cast("Failure", failure), affected, begins_s=begins, ends_s=ends)
