"""The command `llm-fallback`.

A command is a module of this package with a `command` in it; it is imported only when it is asked for, so that
`check` does not pay for what `demo` needs.
"""

from __future__ import annotations

import click

from llm_fallback import __version__
from llm_fallback.cli.shared import Commands

__all__ = ["main"]


@click.group(
    cls=Commands,
    names=(
        *("demo", "check", "explain", "ping", "simulate", "ask", "batch", "serve"),
        *("export", "report", "schema", "fleet"),
    ),
    context_settings={"help_option_names": ["-h", "--help"]},
)
@click.version_option(__version__, prog_name="llm-fallback")
def main() -> None:
    """Check, explain and try chains of language models that one file declares."""
