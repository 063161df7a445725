"""`llm-fallback batch`: a file of prompts of any length, answered row by row."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from llm_fallback._imports import imported
from llm_fallback.cli.shared import (
    EXIT_FAILED,
    INTERRUPTED,
    chain_named,
    chain_option,
    files_option,
    json_option,
    loading_litellm,
    print_json,
)
from llm_fallback.spec import load_spec
from llm_fallback.spec.shown import told

if TYPE_CHECKING:
    from llm_fallback.chat_model.base import ChainChatModel
    from llm_fallback.chat_model.batch.estimate import BatchEstimate
    from llm_fallback.chat_model.batch.job import BatchJob, BatchResult
    from llm_fallback.chat_model.batch.survey import BatchRequest


def _concurrency(ctx: click.Context, option: click.Parameter, given: str) -> int | Literal["auto"]:
    if given == "auto":
        return "auto"
    if not given.isascii() or not given.isdigit() or int(given) < 1:
        raise click.BadParameter(f"{given!r} is neither 'auto' nor a whole number from 1")
    return int(given)


@click.command("batch")
@click.argument("source", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option(
    "-o",
    "--output",
    "target",
    required=True,
    metavar="TARGET",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Where the answers go: .jsonl, .csv or .parquet.",
)
@files_option
@chain_option
@click.option("--prompt", metavar="COLUMN", help="The column to ask. Default: messages, else prompt.")
@click.option("--schema", metavar="PKG.MOD:MODEL", help="The form of the answers; a reply of another form falls back.")
@click.option(
    "--concurrency",
    default="auto",
    show_default=True,
    metavar="N",
    callback=_concurrency,
    help="Rows under way; auto: as many as bring more answers.",
)
@click.option("--resume/--no-resume", default=True, show_default=True, help="Go on with a target that is there.")
@click.option("--retry-failed", is_flag=True, help="Ask the rows again that failed.")
@click.option("--dry-run", is_flag=True, help="Send nothing; estimate requests, tokens and cost.")
@json_option
@click.pass_context
def command(
    ctx: click.Context,
    source: Path,
    target: Path,
    files: tuple[Path, ...],
    chain: str | None,
    prompt: str | None,
    schema: str | None,
    concurrency: int | Literal["auto"],
    resume: bool,
    retry_failed: bool,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Answer every row of a file.

    \b
    llm-fallback batch prompts.jsonl -o answers.jsonl
    llm-fallback batch reviews.csv -o reviews.parquet --prompt text --schema mypkg.forms:Review

    SOURCE and TARGET are JSONL, CSV or Parquet, by their suffix. Interrupted, killed or stopped by a budget, the same
    command goes on where it was. Ctrl-C once finishes what is under way, twice leaves at once.

    Exit code 1 if a row failed or is not answered yet, 130 if it was interrupted. Run again, a finished job does
    nothing and exits with 0, also where rows failed: --retry-failed asks those again.
    """
    spec = load_spec(*files)
    name = chain_named(spec, chain)
    # A form, or `accept`, may be in a module beside the spec; `python -m` would find it, too.
    sys.path.insert(0, os.getcwd())
    form = None if schema is None else _form(schema)
    with loading_litellm():
        from llm_fallback.chat_model.batch.survey import BatchRequest
        from llm_fallback.litellm_adapter.build import build_chat_model

    request = BatchRequest(source, target, prompt, form, concurrency, resume, retry_failed)
    with build_chat_model(spec, chain=name) as model:
        if dry_run:
            _show_estimate(model.estimate_batch(request), as_json=as_json)
        else:
            ctx.exit(_run(model, request, as_json=as_json))


def _form(path: str) -> Any:
    try:
        return imported(path)
    except (ImportError, AttributeError, ValueError) as error:
        why = f"{path!r} cannot be imported ({error}); name it as 'package.module:Model'"
        raise click.BadParameter(why, param_hint="--schema") from None


def _run(model: ChainChatModel, request: BatchRequest, *, as_json: bool) -> int:
    """Run the batch, say what became of it, and return the exit code."""
    from llm_fallback.chat_model.batch.job import run_in_thread
    from llm_fallback.cli.batch_progress import showing_progress

    interrupted = False
    with showing_progress() as on_progress:
        job = model.batch_job(request, on_progress=on_progress)
        try:
            run_in_thread(job, on_interrupt=_say_what_is_finished)
        except KeyboardInterrupt:
            interrupted = True
    if as_json:
        print_json(job.result)
    else:
        click.echo(_summary(job))
    if interrupted:
        return INTERRUPTED
    return 0 if job.was_finished or (job.result["complete"] and not job.result["failed"]) else EXIT_FAILED


def _say_what_is_finished() -> None:
    click.echo("finishing what is under way; Ctrl-C again leaves at once", err=True)


def _summary(job: BatchJob) -> str:
    result: BatchResult = job.result
    done = f"{result['answered']:,} of {result['rows']:,} rows answered, {result['failed']:,} failed"
    cost = "cost unknown" if result["cost_usd"] is None else f"${result['cost_usd']:.4f}"
    lines = [f"{done}, {cost}, {result['seconds']:.1f} s: {job.request.target}"]
    if job.stopped_by is not None:
        lines.append(told(str(job.stopped_by)).partition("\n")[0])
    if not result["complete"]:
        lines.append("the same command goes on with the rest")
    elif result["failed"]:
        before = "it was finished before, so nothing was asked; " if job.was_finished else ""
        lines.append(f"{before}--retry-failed asks the failed rows again")
    return "\n".join(lines)


def _show_estimate(estimate: BatchEstimate, *, as_json: bool) -> None:
    if as_json:
        print_json(estimate)
        return
    cost = "at a price nobody knows" if estimate["cost_usd"] is None else f"about ${estimate['cost_usd']:.4f}"
    click.echo(
        f"{estimate['requests']:,} requests for {estimate['rows']:,} rows; "
        f"about {estimate['input_tokens']:,} tokens in, {estimate['output_tokens']:,} out; "
        f"{cost} at {estimate['deployment']}"
    )
