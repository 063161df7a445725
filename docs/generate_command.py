"""Writes docs/reference/command.md from the command's own help: `python docs/generate_command.py`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import click

from llm_fallback.cli import main

PAGE = Path(__file__).with_name("reference") / "command.md"

HEAD = """# The command

Made from what `--help` prints; `python docs/generate_command.py` writes it anew.

Commands read `llm-fallback.yaml` unless `-f FILE` names another; several `-f` are overlays. The exit code is 0 if all
is fine, 1 for a finding or a failed call, 2 for wrong usage.
"""


def page() -> str:
    """The page, whole."""
    return HEAD + "".join(_sections())


def _sections() -> Iterator[str]:
    settings = {**main.context_settings, "max_content_width": 90, "terminal_width": 90}
    context = click.Context(main, info_name="llm-fallback", **settings)
    for name in main.list_commands(context):
        command = main.get_command(context, name)
        assert command is not None
        with click.Context(command, context, name, max_content_width=90, terminal_width=90) as below:
            yield f"\n## {name}\n\n```text\n{command.get_help(below)}\n```\n"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
