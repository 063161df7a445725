"""The examples: each runs as it stands, without a network, and prints what it says it prints."""

import ast
import runpy
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"


def promised(example: Path) -> str:
    """What stands under `Prints:` in an example's docstring."""
    docstring = ast.get_docstring(ast.parse(example.read_text(encoding="utf-8"))) or ""
    return textwrap.dedent(docstring.partition("Prints:\n")[2]).strip()


@pytest.mark.parametrize("example", sorted(EXAMPLES.glob("*.py")), ids=lambda path: path.stem)
def test_an_example_prints_what_its_docstring_promises(example, capsys):
    """Word for word."""
    assert promised(example)
    runpy.run_path(str(example), run_name="__main__")
    assert capsys.readouterr().out.strip() == promised(example)


@pytest.mark.slow
def test_the_example_of_a_test_file_passes_where_nothing_else_is(tmp_path):
    """As it stands, with pytest's own settings."""
    shutil.copytree(EXAMPLES / "testing", tmp_path / "tests", ignore=shutil.ignore_patterns("__pycache__"))
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
    ran = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert ran.returncode == 0, ran.stdout
    assert " passed" in ran.stdout
