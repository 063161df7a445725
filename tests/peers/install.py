"""Fetches the peers' own test suites, and an environment to run them in: `.peers/`, never the project's.

    python tests/peers/install.py

The suites are in the source distributions of the versions that the environment has; wheels hold no tests.
"""

from __future__ import annotations

import subprocess
import sys
import tarfile
from pathlib import Path

ROOT = Path(__file__).parents[2]
PEERS = ROOT / ".peers"
ENV = PEERS / "env"
SUITES = ("langchain", "langgraph-prebuilt", "langchain-litellm")
TOOLS = (
    *("syrupy", "pytest-mock", "pytest-timeout", "blockbuster", "toml", "vcrpy", "lark"),
    *("langgraph-checkpoint-sqlite", "langgraph-checkpoint-postgres", "psycopg[binary]", "redis"),
)
"""What their tests import beside what ours do."""


def main() -> None:
    if not (ENV / "bin" / "python").exists():
        subprocess.run([sys.executable, "-m", "venv", ENV], check=True)
        pip("install", "--upgrade", "pip>=25.1")  # For --group.
    pip("install", "--editable", ROOT, "--group", f"{ROOT / 'pyproject.toml'}:test", *TOOLS)
    for suite in SUITES:
        fetch(suite, installed(suite))


def pip(*arguments: str | Path) -> None:
    subprocess.run(
        [ENV / "bin" / "python", "-m", "pip", "--quiet", "--disable-pip-version-check", *arguments], check=True
    )


def installed(suite: str) -> str:
    """The version of a package in the environment."""
    ask = f"from importlib.metadata import version; print(version({suite!r}))"
    return subprocess.run(
        [ENV / "bin" / "python", "-c", ask], check=True, capture_output=True, text=True
    ).stdout.strip()


def fetch(suite: str, version: str) -> None:
    """Unpack the suite of a version, unless it is there: `.peers/<suite>-<version>`."""
    name = f"{suite.replace('-', '_')}-{version}"
    if (PEERS / name).exists():
        return
    pip("download", "--no-binary", ":all:", "--no-deps", "--dest", PEERS, f"{suite}=={version}")
    with tarfile.open(PEERS / f"{name}.tar.gz") as archive:
        archive.extractall(PEERS, filter="data")


if __name__ == "__main__":
    main()
