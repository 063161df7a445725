"""What a user's type checker says: nothing of a right program, and of a wrong one the line that is wrong."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

HERE = Path(__file__).parent
PROGRAM = HERE / "program.py"
SOURCES = HERE.parents[1] / "src"
WRONG = sorted((HERE / "wrong").glob("*.py"))

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


def told_by_mypy(directory: Path) -> Iterator[tuple[str, int, str]]:
    """File, line and text of each error, without any configuration of ours."""
    command = [sys.executable, "-m", "mypy", "--strict", "--config-file=", "--output=json", "."]
    environ = {**os.environ, "MYPYPATH": str(SOURCES)}
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=directory, env=environ)
    assert done.returncode in (0, 1), done.stderr
    for line in done.stdout.splitlines():
        told = json.loads(line)
        if told["severity"] == "error":
            yield Path(told["file"]).name, told["line"], told["message"]


def told_by_pyright(directory: Path) -> Iterator[tuple[str, int, str]]:
    """Likewise, in its strict mode."""
    config = {"typeCheckingMode": "strict", "extraPaths": [str(SOURCES)]}
    (directory / "pyrightconfig.json").write_text(json.dumps(config), encoding="utf-8")
    command = [sys.executable, "-m", "pyright", "--outputjson", "--pythonpath", sys.executable]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=directory)
    assert done.returncode in (0, 1), done.stderr
    for told in json.loads(done.stdout)["generalDiagnostics"]:
        yield Path(told["file"]).name, told["range"]["start"]["line"] + 1, told["message"]


@pytest.fixture(scope="module")
def told(request, tmp_path_factory):
    """What the checker of this name says of all programs, asked once, in a project of their own."""
    pytest.importorskip(request.param)
    directory = tmp_path_factory.mktemp(request.param)
    for program in (PROGRAM, *WRONG):
        shutil.copy(program, directory)
    return list({"mypy": told_by_mypy, "pyright": told_by_pyright}[request.param](directory))


CHECKERS = pytest.mark.parametrize("told", ["mypy", "pyright"], indirect=True)


@CHECKERS
def test_a_right_program_passes_in_strict_mode(told):
    """Nothing of ours is Any to it, and nothing it does is refused."""
    assert [each for each in told if each[0] == PROGRAM.name] == []


@CHECKERS
@pytest.mark.parametrize("program", WRONG, ids=lambda path: path.stem)
def test_a_wrong_program_is_told_the_line(told, program):
    """Every line marked wrong, and no other."""
    lines = program.read_text(encoding="utf-8").splitlines()
    marked = {number for number, line in enumerate(lines, 1) if line.endswith("# wrong")}
    assert {line for name, line, _ in told if name == program.name} == marked
