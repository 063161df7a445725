"""`llm-fallback simulate`: what becomes of calls when deployments fail, in simulated time."""

from __future__ import annotations

import asyncio
from pathlib import Path

import click

from llm_fallback.cli.shared import FOUND, chain_called, chain_option, files_option, json_option, print_json
from llm_fallback.cli.simulate_words import percent, rate, troubles
from llm_fallback.loading import load_spec
from llm_fallback.simulate import Outcome, Trouble, simulate
from llm_fallback.simulate.troubles import FAILURES
from llm_fallback.spec import Spec

_FAILURES = f"One that fails so. FAILURE is one of {', '.join(FAILURES)}."


@click.command("simulate")
@files_option
@chain_option
@click.option("--down", multiple=True, metavar="NAME", help="A deployment that refuses connections.")
@click.option("--fail", multiple=True, metavar="NAME=FAILURE[:PERCENT]", help=_FAILURES)
@click.option("--slow", multiple=True, metavar="NAME=TIME", help="One that begins its replies after this time.")
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
    llm-fallback simulate --down claude@30s-2m --calls 5000 --rate 50/s

    The calls take the course that real ones would; the deployments and the clock are pretended, and nothing is sent.
    --down, --fail and --slow may be repeated, and end in @FROM-TO for a trouble that passes. A deployment without
    trouble begins after about half a second and writes for one and a half.

    Exit code 1 if more calls than --allow are left unanswered.
    """
    met, allowed, per_second = troubles(down, fail, slow), percent(allow, "--allow"), rate(pace, "--rate")
    spec = load_spec(*files)
    name = chain_called(spec, chain)
    outcome = _simulated(spec, name, met, calls=calls, per_second=per_second, streamed=stream, seed=seed)
    if as_json:
        print_json(outcome.as_dict())
    else:
        from llm_fallback.cli.simulate_table import show

        show(outcome)
    ctx.exit(FOUND if outcome.unanswered > allowed * calls else 0)


def _simulated(
    spec: Spec, chain: str, met: list[Trouble], *, calls: int, per_second: float, streamed: bool, seed: int
) -> Outcome:
    made = simulate(spec, chain=chain, troubles=met, calls=calls, per_second=per_second, streamed=streamed, seed=seed)
    try:
        return asyncio.run(made)
    except ValueError as error:
        raise click.UsageError(str(error)) from None
