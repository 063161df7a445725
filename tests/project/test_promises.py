"""docs/promises.md: each sentence it quotes stands where it says, and is held by a test that there is."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ROWS = re.findall(
    r"^\| (.+) \| \[([\w./-]+)\]\(.+\) \| \[`(\w+)`\]\(.+/main/(tests/[\w./]+)\) \|$",
    (ROOT / "docs/promises.md").read_text(encoding="utf-8"),
    re.MULTILINE,
)


def test_every_row_of_the_page_is_read():
    """A row in another form would be held by nobody."""
    page = (ROOT / "docs/promises.md").read_text(encoding="utf-8")
    lines = [
        line for line in page.splitlines() if line.startswith("|") and not line.startswith(("| promise |", "|---"))
    ]
    assert len(ROWS) == len(lines) > 30


@pytest.mark.parametrize(("promise", "page", "test", "file"), ROWS, ids=[row[2] for row in ROWS])
def test_a_promise_stands_in_its_page_and_has_its_test(promise, page, test, file):
    """Word for word but for line ends; a test that was renamed or deleted takes its promise with it."""
    text = (ROOT / ("" if page == "README.md" else "docs") / page).read_text(encoding="utf-8")
    assert promise in re.sub(r"\s+", " ", text)
    assert re.search(rf"def {test}\(", (ROOT / file).read_text(encoding="utf-8"))
