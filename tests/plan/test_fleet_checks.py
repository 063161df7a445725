"""Findings about a fleet that is legal but unwise."""

from __future__ import annotations

import sys
from typing import Any

import pytest

from llm_fallback.plan.checks import check
from llm_fallback.spec import load_spec

ENVIRON = {
    "OPENAI_API_KEY": "k",
    "ANTHROPIC_API_KEY": "k",
    "REDIS_URL": "redis://:a-password-of-redis@host:6379/0",
    "OPEN_REDIS_URL": "redis://host:6379/0",
    "FOLDER": "/var/lib/app",
    "FLEET_SECRET": "s3cret-of-the-fleet",
}
GUESSED = (
    "warning: fleet.store: has no password, and there is no fleet.secret: who reads the store and guesses a name "
    "recognises it; write secret: ${NAME}"
)
SHARED = "error: chains.main.budget.file: is the file of the fleet's store, too; give each one of its own"


def spec(fleet: dict[str, Any], **of_main: Any) -> dict[str, Any]:
    return {
        "deployments": {"a": {"model": "openai/a"}, "b": {"model": "anthropic/b"}},
        "chains": {"main": {"tiers": ["a", "b"], **of_main}},
        "fleet": fleet,
    }


def findings(source: Any) -> list[str]:
    return [str(finding) for finding in check(source, environ=ENVIRON)]


@pytest.mark.parametrize(
    ("store", "file"),
    [
        ("file:///var/lib/app/fleet.json", "/var/lib/app/fleet.json"),
        ("file:///var/lib/app/our%20fleet", "/var/lib/app/../app/our fleet"),
        ("file://${FOLDER}/fleet", "${FOLDER}/fleet"),
        ("file:///var/lib/app/fleet", "${FOLDER}/fleet"),
    ],
)
def test_a_budget_s_file_is_no_store(store, file):
    """However it is written; each would overwrite the other."""
    budget = {"usd_per_day": 5, "file": file}
    assert findings(spec({"store": store}, budget=budget)) == [SHARED]
    assert findings(spec({"store": store}, budget={**budget, "file": f"{file}-of-money"})) == []
    assert findings(spec({"store": f"{store}-of-all"}, budget=budget)) == []


@pytest.mark.parametrize("store", ["redis://host:6379/0", "${OPEN_REDIS_URL}", "unix:///run/redis.sock"])
def test_names_that_can_be_guessed_are_told(store):
    """A secret of its own helps, or a password of the store; of a variable that is not set nothing is known."""
    assert findings(spec({"store": store})) == [GUESSED]
    assert findings(spec({"store": store, "secret": "${FLEET_SECRET}"})) == []
    assert findings(spec({"store": "${REDIS_URL}"})) == []
    assert findings(spec({"store": "${OF_NOBODY}"})) == ["warning: fleet.store: the variable OF_NOBODY is not set"]


def test_a_missing_extra_is_told(monkeypatch):
    """By what to install; a file needs none."""
    monkeypatch.setattr(sys, "meta_path", [])
    monkeypatch.delitem(sys.modules, "redis", raising=False)
    assert findings(spec({"store": "${REDIS_URL}"})) == [
        'warning: fleet.store: redis is not installed here: pip install "langchain-llm-fallback[redis]"'
    ]
    assert findings(spec({"store": "file:///var/lib/app/fleet.json"})) == []


def test_limits_without_a_number_of_processes_are_told():
    """A note, since only the one who deploys can know."""
    limited = spec({"store": "${REDIS_URL}"})
    limited["deployments"]["a"]["limits"] = {"rpm": 60}
    assert findings(limited) == [
        "note: fleet: does not say how many processes there are: where the store was never reached, each sends as much "
        "as the limits of a allow to all; write processes"
    ]
    limited["fleet"]["processes"] = 1
    assert findings(limited) == []


def test_a_secret_in_clear_is_told_with_its_line(tmp_path):
    """As that of a deployment is; one in a mapping of Python stands in no file."""
    file = tmp_path / "llm-fallback.yaml"
    file.write_text(
        "deployments: {a: {model: openai/a}, b: {model: anthropic/b}}\n"
        "chains: {main: {tiers: [a, b]}}\n"
        "fleet:\n  store: ${REDIS_URL}\n  secret: correct-horse-battery\n"
    )
    assert findings(load_spec(file)) == [
        f"warning: {file}:5 fleet.secret: a secret in clear; write ${{NAME}} and set the variable"
    ]
    assert findings(spec({"store": "${REDIS_URL}", "secret": "correct-horse-battery"})) == []
