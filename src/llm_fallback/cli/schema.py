"""`llm-fallback schema`: the JSON Schema of a spec file."""

from __future__ import annotations

import click

from llm_fallback.cli.shared import print_json
from llm_fallback.spec import json_schema


@click.command("schema")
def command() -> None:
    """Print the JSON Schema of a spec, for editors.

    \b
    llm-fallback schema > llm-fallback.schema.json
    # yaml-language-server: $schema=llm-fallback.schema.json
    """
    print_json(json_schema())
