"""What the commands share: options, printing, exit codes, and the handling of errors."""

from __future__ import annotations

import atexit
import errno
import gc
import json
import logging
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO, TypeVar

import click

from llm_fallback._imports import collecting_later
from llm_fallback.errors import LLMFallbackError, SpecError
from llm_fallback.spec.shown import shown, told

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

    from llm_fallback.spec import Spec

DEFAULT_FILE = "llm-fallback.yaml"
EXIT_FAILED = 1
"""Exit code for a finding or a failed call. Success is 0, wrong usage 2."""
INTERRUPTED = 130

_Function = TypeVar("_Function", bound=Callable[..., Any])


class Commands(click.Group):
    """Commands by name, each in its own module. Errors of this library are printed without a traceback."""

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
        try:
            return self._invoke(ctx)
        except OSError as error:  # Of stdout: nobody reads it, or its disk is full.
            _leave_stdout()
            if error.errno != errno.EPIPE:
                click.echo(f"{ctx.command_path}: cannot write the output: {error.strerror}", err=True)
            ctx.exit(EXIT_FAILED)

    def _invoke(self, ctx: click.Context) -> Any:
        # The output of the command says what happened; the log would repeat it.
        logging.getLogger("llm_fallback").addHandler(logging.NullHandler())
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            ctx.exit(INTERRUPTED)
        except LLMFallbackError as error:
            click.echo(f"{ctx.command_path}: {told(str(error))}", err=True)
            ctx.exit(EXIT_FAILED)
        except OSError as error:
            if error.filename is None:
                raise
            click.echo(f"{ctx.command_path}: {error.filename}: {error.strerror}", err=True)
            ctx.exit(EXIT_FAILED)
        finally:
            # At exit, a failure to write would be told by the interpreter.
            _written_stdout().flush()


def _written_stdout() -> TextIO:
    """Where the output went; OSError if the command was started without a standard output."""
    stdout: TextIO | None = sys.stdout
    if stdout is None:
        raise OSError(errno.EBADF, os.strerror(errno.EBADF))
    return stdout


def _leave_stdout() -> None:
    """Send what is still to be written nowhere, so that the interpreter does not fail over it at exit."""
    with suppress(OSError, ValueError), open(os.devnull, "wb") as nowhere:
        os.dup2(nowhere.fileno(), _written_stdout().fileno())


def _files(ctx: click.Context, option: click.Parameter, given: tuple[Path, ...]) -> tuple[Path, ...]:
    if given or ctx.resilient_parsing:
        return given
    if not Path(DEFAULT_FILE).is_file():
        raise click.UsageError(f"there is no {DEFAULT_FILE} here; name a spec with -f FILE", ctx)
    return (Path(DEFAULT_FILE),)


def files_option(command: _Function) -> _Function:
    """-f FILE, repeatable: the spec; later files are overlays of earlier ones. Else LLM_FALLBACK_SPEC names them,
    `os.pathsep` between."""
    return click.option(
        "-f",
        "--file",
        "files",
        multiple=True,
        metavar="FILE",
        envvar="LLM_FALLBACK_SPEC",
        type=click.Path(exists=True, dir_okay=False, path_type=Path),
        callback=_files,
        help=f"The spec; further ones are overlays. Default: {DEFAULT_FILE}",
    )(command)


def json_option(command: _Function) -> _Function:
    """--json: print data instead of text."""
    return click.option("--json", "as_json", is_flag=True, help="Print JSON.")(command)


def chain_option(command: _Function) -> _Function:
    """--chain NAME: another chain than the default one."""
    return click.option("--chain", metavar="NAME", help="Another chain than the default one.")(command)


def chain_named(spec: Spec, name: str | None) -> str:
    """The chain of that name, without one the default; wrong usage if there is none."""
    try:
        return spec.chain_name(name)
    except SpecError as error:
        (mistake,) = error.mistakes
    if spec.chains:
        raise click.BadParameter(f"{mistake.problem}; {mistake.remedy}", param_hint="--chain")
    raise click.UsageError(str(mistake))


def print_json(data: Any) -> None:
    """Print data on stdout, for other programs."""
    click.echo(as_json_text(data, indent=2))


def as_json_text(data: Any, indent: int | None = None) -> str:
    """JSON with JSON's escapes for what cannot be printed: half characters, and those that move a terminal's cursor."""
    text = json.dumps(data, indent=indent, ensure_ascii=False)
    if text.replace("\n", "").isprintable():
        return text
    return "".join(char if char == "\n" or char.isprintable() else json.dumps(char)[1:-1] for char in text)


def named(name: str, end: str = "") -> Text:
    """A name in a table or a line of rich's: never its markup."""
    from rich.text import Text

    return Text(shown(name) + end)


def console(*, stderr: bool = False) -> Console:
    """A console for rich text: colours and lines on a terminal, plain text elsewhere, at most 100 columns."""
    from rich.console import Console

    console = Console(stderr=stderr, highlight=False)
    return console if console.width <= 100 else Console(stderr=stderr, highlight=False, width=100)


@contextmanager
def loading_litellm() -> Iterator[None]:
    """Import litellm without garbage collection, which would take a second or two among 3,000 new modules, and again
    at exit."""
    with collecting_later():
        yield
    atexit.register(gc.freeze)
