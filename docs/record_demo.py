"""Records docs/demo.svg from a run of `llm-fallback demo`: `python docs/record_demo.py`."""

from __future__ import annotations

import re
from io import StringIO
from pathlib import Path

from rich._export_format import CONSOLE_SVG_FORMAT
from rich.console import Console

from llm_fallback.cli.demo import show

PICTURE = Path(__file__).with_name("demo.svg")
WIDTH = 80
# A picture fetches nothing: without the web fonts, the reader's own monospaced one is taken.
_FORMAT = re.sub(r"\s*@font-face \{\{.*?\}\}", "", CONSOLE_SVG_FORMAT, flags=re.DOTALL)


def picture() -> str:
    """What the demo shows on a terminal of `WIDTH` columns, as SVG."""
    out = Console(record=True, width=WIDTH, file=StringIO(), force_terminal=False)
    show(out)
    svg = out.export_svg(title="llm-fallback demo", code_format=_FORMAT, unique_id="demo")
    return "".join(f"{line.rstrip()}\n" for line in svg.splitlines())


if __name__ == "__main__":
    PICTURE.write_text(picture(), encoding="utf-8")
