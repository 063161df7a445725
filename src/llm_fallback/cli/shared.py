"""What the commands share: the file they work on, how they print, and how they end."""

from __future__ import annotations

import atexit
import gc
import json
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from llm_fallback._imports import collecting_later
from llm_fallback.errors import LLMFallbackError, unknown_chain

if TYPE_CHECKING:
    from rich.console import Console

    from llm_fallback.spec import Spec

DEFAULT_FILE = "llm-fallback.yaml"
FOUND = 1
"""Exit code for a finding or a failed call. Fine is 0, wrong usage 2."""
INTERRUPTED = 130

_Function = TypeVar("_Function", bound=Callable[..., Any])


class Commands(click.Group):
    """Commands by name, each in a module of its own, and errors of ours told without a traceback."""

    def __init__(self, *, names: Sequence[str] = (), **settings: Any) -> None:
        super().__init__(**settings)
        self.names = names

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.names)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in self.names:
            return None
        command: click.Command = import_module(f"llm_fallback.cli.{cmd_name}").command
        return command

    def invoke(self, ctx: click.Context) -> Any:
        # Whoever uses the command sees what happened in its output; our log would say it twice.
        logging.getLogger("llm_fallback").addHandler(logging.NullHandler())
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            ctx.exit(INTERRUPTED)
        except LLMFallbackError as error:
            click.echo(f"{ctx.command_path}: {error}", err=True)
            ctx.exit(FOUND)
        except OSError as error:
            if error.filename is None:  # As of a pipe that nobody reads any more, which click knows what to do with.
                raise
            click.echo(f"{ctx.command_path}: {error.filename}: {error.strerror}", err=True)
            ctx.exit(FOUND)


def _files(ctx: click.Context, option: click.Parameter, given: tuple[Path, ...]) -> tuple[Path, ...]:
    if given or ctx.resilient_parsing:
        return given
    if not Path(DEFAULT_FILE).is_file():
        raise click.UsageError(f"there is no {DEFAULT_FILE} here; name a spec with -f FILE", ctx)
    return (Path(DEFAULT_FILE),)


def files_option(command: _Function) -> _Function:
    """-f FILE, repeatable: what the command works on, later files laid over earlier ones."""
    return click.option(
        "-f",
        "--file",
        "files",
        multiple=True,
        metavar="FILE",
        type=click.Path(exists=True, dir_okay=False, path_type=Path),
        callback=_files,
        help=f"The spec; further ones are overlays. Default: {DEFAULT_FILE}",
    )(command)


def json_option(command: _Function) -> _Function:
    """--json: data instead of text."""
    return click.option("--json", "as_json", is_flag=True, help="Print JSON.")(command)


def chain_option(command: _Function) -> _Function:
    """--chain NAME: which chain is meant."""
    return click.option("--chain", metavar="NAME", help="Another chain than the default one.")(command)


def chain_called(spec: Spec, name: str | None) -> str:
    """The chain of that name, without one the default; wrong usage if there is none."""
    if not spec.chains:
        raise click.UsageError("the spec has no chain, so nothing can be asked; write one that has tiers")
    if name is None and spec.default_chain is None:
        raise click.UsageError(f"there is no default_chain; name one with --chain: {', '.join(spec.chains)}")
    chosen = name or str(spec.default_chain)
    if chosen in spec.chains:
        return chosen
    mistake = unknown_chain(chosen, spec.chains)
    raise click.BadParameter(f"{mistake.problem}; {mistake.remedy}", param_hint="--chain")


def print_json(data: Any) -> None:
    """Data on stdout, for other programs."""
    click.echo(json.dumps(data, indent=2, ensure_ascii=False))


def console(*, stderr: bool = False) -> Console:
    """Where rich text goes: colours and lines on a terminal, plain text elsewhere, 100 columns at most."""
    from rich.console import Console

    made = Console(stderr=stderr, highlight=False)
    return made if made.width <= 100 else Console(stderr=stderr, highlight=False, width=100)


@contextmanager
def loading_litellm() -> Iterator[None]:
    """Around its import: looking for garbage among 3,000 new modules, and once more at exit, costs a second or two."""
    with collecting_later():
        yield
    atexit.register(gc.freeze)
