"""The tests on what else a user may have: other Pythons, the lowest and the newest allowed versions of what the library
stands on, uvloop, no orjson, tomorrow's litellm.

`make matrix` runs all but the last; `nox -l` lists them, `nox -s lowest_allowed` runs one.

A Python that is not on the machine is skipped, and named at the end.
"""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import nox

PROJECT = tomllib.loads(Path("pyproject.toml").read_text(encoding="utf-8"))["project"]
STANDS_ON = ("langchain-core", "langchain-litellm", "litellm")
CORE = ("engine", "plan", "spec", "chat_model", "fleet", "ledger", "callbacks", "upstream", "litellm_adapter", "corpus")
"""Folders of tests that show whether the library stands on what is below it."""
PYTHONS = [one.rpartition(" ")[2] for one in PROJECT["classifiers"] if re.search(r":: 3\.\d+$", one)]

nox.options.error_on_missing_interpreters = False
nox.options.sessions = ["python", "lowest_allowed", "newest_allowed", "uvloop", "without_orjson"]


def lowest() -> list[str]:
    """The lowest version that pyproject.toml allows, of each of them."""
    bounds = {re.split(r"[<>=!]", one)[0]: one for one in PROJECT["dependencies"]}
    return [re.sub(r">=([\d.]+).*", r"==\1", bounds[name]) for name in STANDS_ON]


def run(session: nox.Session, *more: str, tests: tuple[str, ...] = CORE) -> None:
    """Install the library, what its tests need and `more`; then run these folders of tests, or those of the command."""
    session.install("--upgrade", "pip>=25.1", silent=True)
    session.install("--editable", ".", "--group", "test", *more)
    words = session.posargs or [f"tests/{name}" for name in tests]
    if words:
        session.run("pytest", "-q", "-n", "2", "-m", "not servers and not slow", "--hypothesis-profile=fast", *words)


@nox.session(python=PYTHONS)
def python(session: nox.Session) -> None:
    """Each Python, with the newest versions that are allowed."""
    run(session)


@nox.session
def lowest_allowed(session: nox.Session) -> None:
    """The lowest allowed versions of langchain-core, langchain-litellm and litellm."""
    run(session, *lowest(), tests=("upstream", "litellm_adapter", "end_to_end"))


@nox.session
def newest_allowed(session: nox.Session) -> None:
    """The newest allowed ones."""
    run(session, "--upgrade", *STANDS_ON, tests=("upstream", "litellm_adapter", "end_to_end"))


@nox.session
def uvloop(session: nox.Session) -> None:
    """Every event loop a uvloop's."""
    session.env["EVENT_LOOP"] = "uvloop"
    run(session, "uvloop")


@nox.session
def without_orjson(session: nox.Session) -> None:
    """JSON by the standard library alone: what imports orjson is told that there is none."""
    session.env["WITHOUT"] = "orjson"
    run(session)


@nox.session
def prereleases(session: nox.Session) -> None:
    """What is about to be released of litellm, langchain-core and langchain-litellm: which fact moved?

    Bounds of pyproject.toml do not hold it back."""
    run(session, tests=())
    session.install("--upgrade", "--pre", *STANDS_ON)
    session.run("pytest", "-q", "-rfE", "--tb=line", "tests/upstream", "tests/litellm_adapter")


@nox.session
def litellm_main(session: nox.Session) -> None:
    """litellm as it stands in its repository."""
    run(session, tests=())
    session.install("--upgrade", "litellm @ git+https://github.com/BerriAI/litellm@main")
    session.run("pytest", "-q", "-rfE", "--tb=line", "tests/upstream", "tests/litellm_adapter")
