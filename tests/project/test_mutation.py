"""tests/mutation: its lists name what there is."""

import re
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "src/llm_fallback"
MODULES = yaml.safe_load((ROOT / "tests/mutation/modules.yaml").read_text(encoding="utf-8"))
EQUIVALENT = yaml.safe_load((ROOT / "tests/mutation/equivalent.yaml").read_text(encoding="utf-8"))


def test_every_file_and_every_test_of_it_is_there():
    """A test that was renamed would notice nothing."""
    assert [path for path in MODULES if not (SOURCE / path).is_file()] == []
    assert [test for tests in MODULES.values() for test in tests if not (ROOT / "tests" / test).is_file()] == []


def test_what_is_excused_stands_in_its_file_and_has_a_reason():
    """A line that was rewritten takes its excuse with it."""
    assert EQUIVALENT
    for row in EQUIVALENT:
        lines = " ".join((SOURCE / row["module"]).read_text(encoding="utf-8").split())
        assert re.sub(r"\s+", " ", row["was"]) in lines, row
        assert row["was"] not in row["becomes"]
        assert row["reason"].endswith(".")


def test_the_table_of_the_page_is_of_files_that_are_tried():
    """A row whose file is gone tells of nothing."""
    page = (ROOT / "docs/reliability.md").read_text(encoding="utf-8")
    assert set(re.findall(r"^\| `([\w/]+\.py)` \|", page, re.MULTILINE)) <= MODULES.keys()
