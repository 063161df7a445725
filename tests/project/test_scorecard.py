"""The checks of OpenSSF's Scorecard that look at what is in a repository, played here.

They are listed at https://github.com/ossf/scorecard/blob/main/docs/checks.md.

Not played: Branch-Protection, Code-Review, CI-Tests, Contributors, Maintained, CII-Best-Practices and Webhooks look at
the host's settings, people and history; Vulnerabilities asks a database of known holes, as `make audit` does.
"""

from __future__ import annotations

import re
import subprocess
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
WORKFLOWS = {
    path.stem: yaml.safe_load(path.read_text(encoding="utf-8")) for path in sorted(ROOT.glob(".github/workflows/*.yml"))
}
FILES = subprocess.run(
    ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
    cwd=ROOT, check=False, capture_output=True, text=True,
).stdout.splitlines()  # fmt: skip
UNTRUSTED = re.compile(
    r"github\.(event\.(issue|pull_request|comment|review|review_comment|discussion|head_commit|commits|pages)\b"
    r"(?!\.(number|id|sha)\b)|head_ref)"
)
"""What somebody outside can write."""


def steps() -> Iterator[tuple[str, Mapping[str, Any]]]:
    for name, workflow in WORKFLOWS.items():
        for job in workflow["jobs"].values():
            yield from ((name, step) for step in job["steps"])


def triggers(workflow: Mapping[Any, Any]) -> set[str]:
    on = workflow[True]  # YAML reads `on` as a truth value.
    return {on} if isinstance(on, str) else set(on)


def test_binary_artifacts_there_are_none():
    """Nothing that runs, and was built from something that is not here."""
    assert FILES or not (ROOT / ".git").exists()
    built = re.compile(r"\.(exe|dll|so|dylib|jar|class|pyc|pyo|whl|o|a|bin|apk|wasm|elf)$")
    assert [name for name in FILES if built.search(name)] == []


def test_dangerous_workflow_no_code_of_a_stranger_runs_with_rights():
    """No workflow is started with the rights of the repository by somebody else's change, and no text of somebody
    else's becomes part of a script."""
    for name, workflow in WORKFLOWS.items():
        assert not triggers(workflow) & {"pull_request_target", "workflow_run", "issue_comment"}, name
    for name, step in steps():
        assert not UNTRUSTED.search(str(step.get("run", ""))), name
        assert "${{" not in str(step.get("run", "")), f"{name}: hand it over as a variable of the environment"


def test_token_permissions_are_none_at_the_top_and_named_by_each_job():
    """Of writing only what publishing and telling findings needs."""
    may_write = {"release": {"id-token"}, "site": {"id-token", "pages"}, "codeql": {"security-events"}}
    for name, workflow in WORKFLOWS.items():
        assert workflow["permissions"] == {}, name
        for job in workflow["jobs"].values():
            written = {right for right, access in job["permissions"].items() if access == "write"}
            assert written <= may_write.get(name, set()), name


def test_pinned_dependencies_actions_are_named_by_their_commit():
    """A tag can be moved. The version beside it is what Dependabot reads."""
    for path in ROOT.glob(".github/workflows/*.yml"):
        used = re.findall(r"uses: (.*)$", path.read_text(encoding="utf-8"), re.MULTILINE)
        assert used
        assert [one for one in used if not re.fullmatch(r"[\w./-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+", one)] == []
    assert not [name for name in FILES if "Dockerfile" in name]


def test_a_checkout_leaves_no_credential_behind():
    """What the steps behind it run could read it."""
    checkouts = [step for _, step in steps() if step.get("uses", "").startswith("actions/checkout@")]
    assert len(checkouts) >= len(WORKFLOWS)
    assert all(step["with"]["persist-credentials"] is False for step in checkouts)


def test_dependency_update_tool_looks_at_packages_and_actions():
    """Dependabot, weekly."""
    updates = yaml.safe_load((ROOT / ".github/dependabot.yml").read_text(encoding="utf-8"))["updates"]
    assert {update["package-ecosystem"] for update in updates} == {"pip", "github-actions"}


def test_license_is_one_that_is_known_and_stands_at_the_top():
    """In a file of that name, and in what is published."""
    assert "MIT License" in (ROOT / "LICENSE").read_text(encoding="utf-8")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert (project["license"], project["license-files"]) == ("MIT", ["LICENSE"])


def test_security_policy_says_how_to_report_and_when_one_is_answered():
    """With an address to report to, and what becomes of it."""
    policy = (ROOT / "SECURITY.md").read_text(encoding="utf-8")
    assert re.search(r"https://\S+/security/advisories/new", policy)
    assert re.search(r"within\s+a\s+week", policy)
    assert re.search(r"(?i)vulnerabilit", policy)


def test_sast_codeql_looks_at_every_change():
    """On each push to main, each pull request, and once a week."""
    workflow = WORKFLOWS["codeql"]
    assert {"push", "pull_request", "schedule"} <= triggers(workflow)
    used = [step["uses"].partition("@")[0] for name, step in steps() if name == "codeql" and "uses" in step]
    assert {"github/codeql-action/init", "github/codeql-action/analyze"} <= set(used)


def test_fuzzing_there_is_a_harness_that_is_guided_by_coverage():
    """Scorecard looks for atheris in Python."""
    assert "import atheris" in (ROOT / "tests/fuzz/guided.py").read_text(encoding="utf-8")
    assert "fuzz:" in (ROOT / "Makefile").read_text(encoding="utf-8")


def test_signed_releases_and_packaging_a_workflow_publishes_with_attestations():
    """By a proof of its own, not by a token that can be stolen."""
    publish = WORKFLOWS["release"]["jobs"]["publish"]
    assert publish["permissions"] == {"id-token": "write"}
    upload = publish["steps"][-1]
    assert upload["uses"].startswith("pypa/gh-action-pypi-publish@")
    assert upload["with"] == {"attestations": True}
    assert not [name for name, step in steps() if "secrets." in str(step)]


@pytest.mark.parametrize("check", ["audit", "test", "lint"])
def test_ci_runs_what_finds_mistakes(check):
    """Known holes in what is installed (Vulnerabilities), tests, and the linters, zizmor among them."""
    matrix = WORKFLOWS["ci"]["jobs"]["test"]["strategy"]["matrix"]
    assert check in {*matrix["step"], *(row["step"] for row in matrix["include"])}
