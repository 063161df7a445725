"""docs/pictures: what the engine does today, as it draws itself."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[2] / "docs"


@pytest.mark.parametrize("script", ["draw_pictures.py", "draw_balancing.py"])
def test_the_pictures_are_what_their_script_draws(script: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A change of the engine that would be seen in one fails here; `make docs` draws them anew."""
    monkeypatch.syspath_prepend(DOCS)
    for name, draw in runpy.run_path(str(DOCS / script))["PICTURES"].items():
        assert (DOCS / "pictures" / name).read_text(encoding="utf-8") == draw().svg(), f"{name} is of another day"


def test_every_picture_is_shown() -> None:
    """And drawn by one of the scripts."""
    pages = [page.read_text(encoding="utf-8") for page in DOCS.rglob("*.md")]
    scripts = "".join(script.read_text(encoding="utf-8") for script in DOCS.glob("draw_*.py"))
    for picture in (DOCS / "pictures").iterdir():
        assert any(f"pictures/{picture.name})" in page for page in pages)
        assert f'"{picture.name}"' in scripts
