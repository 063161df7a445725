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
BELOW = ("upstream", "litellm_adapter", "chat_model", "corpus", "end_to_end")
"""Folders of tests that show whether litellm's and LangChain's versions are such that it does."""
PYTHONS = [one.rpartition(" ")[2] for one in PROJECT["classifiers"] if re.search(r":: 3\.\d+$", one)]

nox.options.error_on_missing_interpreters = False
nox.options.sessions = ["python", "lowest_allowed", "newest_allowed", "uvloop", "without_orjson"]


def lowest() -> list[str]:
    """The lowest version that pyproject.toml allows, of each of them."""
    bounds = {re.split(r"[<>=!]", one)[0]: one for one in PROJECT["dependencies"]}
    return [re.sub(r">=([\d.]+).*", r"==\1", bounds[name]) for name in STANDS_ON]


def install(session: nox.Session, *more: str) -> None:
    """The library, what its tests need, and `more`."""
    session.install("--upgrade", "pip>=25.1", silent=True)
    session.install("--editable", ".", "--group", "test", *more)


def run(session: nox.Session, *folders: str) -> None:
    """The tests of `make test`, all or those in these folders; or what the command names."""
    words = session.posargs or [f"tests/{name}" for name in folders]
    fast = ("-m", "not servers and not slow", "--hypothesis-profile=fast")
    session.run("pytest", "-q", "-n", "2", "--dist=worksteal", *fast, *words)


@nox.session(python=PYTHONS)
def python(session: nox.Session) -> None:
    """Each Python, with the newest versions that are allowed."""
    install(session)
    run(session)


@nox.session
def lowest_allowed(session: nox.Session) -> None:
    """The lowest allowed versions of langchain-core, langchain-litellm and litellm."""
    install(session, *lowest())
    run(session, *BELOW)


@nox.session
def newest_allowed(session: nox.Session) -> None:
    """The newest allowed ones."""
    install(session, "--upgrade", *STANDS_ON)
    run(session, *BELOW)


@nox.session
def uvloop(session: nox.Session) -> None:
    """Every event loop a uvloop's."""
    session.env["EVENT_LOOP"] = "uvloop"
    install(session, "uvloop")
    run(session, *CORE)


@nox.session
def without_orjson(session: nox.Session) -> None:
    """JSON by the standard library alone: what imports orjson is told that there is none."""
    session.env["WITHOUT"] = "orjson"
    install(session)
    run(session, *CORE)


@nox.session
def prereleases(session: nox.Session) -> None:
    """What is about to be released of litellm, langchain-core and langchain-litellm: which fact moved?

    Bounds of pyproject.toml do not hold it back."""
    install(session)
    session.install("--upgrade", "--pre", *STANDS_ON)
    session.run("pytest", "-q", "-rfE", "--tb=line", "tests/upstream", "tests/litellm_adapter")


@nox.session
def litellm_main(session: nox.Session) -> None:
    """litellm as it stands in its repository."""
    install(session)
    session.install("--upgrade", "litellm @ git+https://github.com/BerriAI/litellm@main")
    session.run("pytest", "-q", "-rfE", "--tb=line", "tests/upstream", "tests/litellm_adapter")
