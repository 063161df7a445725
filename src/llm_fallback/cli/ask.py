"""`llm-fallback ask`: one question to a chain, its answer, and the attempts that led to it."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from llm_fallback.cli.shared import (
    EXIT_FAILED,
    chain_named,
    chain_option,
    console,
    files_option,
    json_option,
    loading_litellm,
    print_json,
)
from llm_fallback.errors import BudgetExceeded, ChainExhausted, StreamBroken
from llm_fallback.events import CallEnded, Event, Record
from llm_fallback.spec import load_spec
from llm_fallback.spec.shown import told

if TYPE_CHECKING:
    from langchain_core.language_models import BaseChatModel
    from langchain_core.messages import AIMessage


@click.command("ask")
@click.argument("question")
@files_option
@chain_option
@click.option("--stream/--no-stream", default=True, show_default=True, help="Print the answer as it comes.")
@json_option
@click.pass_context
def command(
    ctx: click.Context, question: str, files: tuple[Path, ...], chain: str | None, stream: bool, as_json: bool
) -> None:
    """Ask a chain a question.

    The answer goes to stdout, the steps of the call to stderr. A QUESTION of - is read from stdin.
    """
    spec = load_spec(*files)
    name = chain_named(spec, chain)
    text = sys.stdin.read() if question == "-" else question
    # `accept` may name a function in a module beside the spec; `python -m` would find it, too.
    sys.path.insert(0, os.getcwd())
    with loading_litellm():
        from llm_fallback.litellm_adapter.build import build_chat_model

    records: list[Record] = []
    with build_chat_model(spec, chain=name, listeners=[_recorder(records)]) as model:
        ctx.exit(_ask_as_json(model, text, records) if as_json else _ask(model, text, stream, records))


def _recorder(records: list[Record]) -> Any:
    def listen(event: Event) -> None:
        if isinstance(event, CallEnded):
            records.append(event.record)

    return listen


def _ask(model: BaseChatModel, question: str, stream: bool, records: list[Record]) -> int:
    from llm_fallback.cli.timeline import summary, timeline

    out = console(stderr=True)
    error, has_text = None, False
    try:
        for text in _answer(model, question, stream):
            click.echo(text, nl=False)
            has_text = has_text or bool(text)
    except (BudgetExceeded, ChainExhausted, StreamBroken) as raised:
        error = raised
    if has_text:
        click.echo()
    out.print(timeline(records[-1]))
    out.print(summary(records[-1]), markup=False)
    if error is not None:
        out.print(told(str(error)), style="red", markup=False, soft_wrap=not out.is_terminal)
    return EXIT_FAILED if error else 0


def _answer(model: BaseChatModel, question: str, stream: bool) -> Iterator[str]:
    if not stream:
        yield str(model.invoke(question).text)
        return
    for chunk in model.stream(question):
        yield str(chunk.text)


def _ask_as_json(model: BaseChatModel, question: str, records: list[Record]) -> int:
    try:
        reply: AIMessage = model.invoke(question)
    except (BudgetExceeded, ChainExhausted) as error:
        print_json({"answer": None, "error": str(error), **_metadata(records)})
        return EXIT_FAILED
    print_json({"answer": str(reply.text), "usage_metadata": reply.usage_metadata, **_metadata(records)})
    return 0


def _metadata(records: list[Record]) -> dict[str, Any]:
    return {"llm_fallback": records[-1].as_metadata()}
