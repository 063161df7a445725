"""`llm-fallback export`: a spec in another form."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import click

from llm_fallback.cli.shared import files_option
from llm_fallback.spec import Spec, load_spec
from llm_fallback.spec.dump import as_yaml, dump_spec
from llm_fallback.spec.litellm_proxy.write import write_config
from llm_fallback.spec.locations import Note
from llm_fallback.spec.shown import told

_FORMS: Mapping[str, Callable[[Spec], tuple[dict[str, Any], tuple[Note, ...]]]] = {
    "litellm-proxy": write_config,
    "llm-fallback": dump_spec,
}


@click.command("export")
@files_option
@click.option("--to", "form", required=True, type=click.Choice(list(_FORMS)), help="What is written.")
@click.option(
    "--output",
    type=click.Path(dir_okay=False, writable=True, path_type=Path),
    metavar="FILE",
    help="Where to. Default: stdout.",
)
def command(files: tuple[Path, ...], form: str, output: Path | None) -> None:
    """Write a spec as a LiteLLM proxy's config.yaml, or as a spec of this library.

    Either is read, too: a config.yaml becomes a spec by --to llm-fallback. What the other form has no word for is
    listed on stderr. No secret is written: one in clear becomes a variable, which is named there as well.
    """
    spec = load_spec(*files)
    data, notes = _FORMS[form](spec)
    text = as_yaml(data)
    if output is None:
        click.echo(text, nl=False)
    else:
        output.write_text(text, encoding="utf-8")
    for note in (*spec.notes, *notes):
        click.echo(f"{click.style('note', fg='cyan')} {told(str(note))}", err=True)
