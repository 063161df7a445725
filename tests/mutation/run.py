"""Would a test notice if a line were wrong? `python tests/mutation/run.py [file ...]`: mutmut changes one thing after
another in each file, and the tests that `modules.yaml` names for it are to fail.

`--base REF` takes the files that differ from that commit, `--minutes N` stops after so long and says what was not
tried, `--again` tries only what no test noticed in an earlier run, and what has changed since. What survives and is not
in `equivalent.yaml` is shown, and fails the run where less than 95 % of what is not equivalent was noticed.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
import tomllib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import chdir
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from mutmut.mutation.diff_apply import get_diff_for_mutant
from mutmut.stats import status_by_exit_code

ROOT = Path(__file__).parents[2]
SOURCE = "src/llm_fallback"
HERE = Path(__file__).parent
WORK = ROOT / ".mutants"
GOAL = 0.95
NOTICED = ("killed", "timeout", "segfault")
READ_BY_TESTS = ("tests", "docs", "examples", "benchmarks", "README.md", "CHANGELOG.md", "CONTRIBUTING.md")
NO_VERDICT = (2, 3, 4, 5)
"""How pytest ends where it was interrupted, broke down, was called wrongly or found no test."""
PLUGINS = ("pytest_asyncio.plugin", "pytest_timeout", "_hypothesis_pytestplugin")
"""All that the tests need: whatever else is installed takes longer to load than a test takes."""
WITHOUT = ("cacheprovider", "faulthandler", "junitxml", "unraisableexception", "threadexception")
"""Parts of pytest that cost more than the test: one collects garbage five times at the end of each run."""

OPTIONS = [
    *(word for name in (*PLUGINS, *(f"no:{name}" for name in WITHOUT)) for word in ("-p", name)),
    *("--hypothesis-profile=mutants", "--timeout=60", "-W", "ignore", "-m", "not servers and not slow"),
    *("-o", "addopts="),
]
ENVIRONMENT = {**os.environ, "PYTHONPATH": "", "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}


@dataclass(frozen=True)
class Mutant:
    """One change of one line."""

    name: str
    status: str
    """In mutmut's words."""
    was: str
    becomes: str

    @property
    def function(self) -> str:
        return self.name.rpartition("__mutmut_")[0].rpartition(".")[2].replace("xǁ", "").replace("ǁ", ".").lstrip("x_")


@dataclass
class Module:
    """A file with the tests that are nearest to it."""

    path: str
    """Below `src/llm_fallback`."""
    tests: Sequence[str]
    """The first is tried on every mutant, the others on what it leaves."""

    @property
    def work(self) -> Path:
        return WORK / self.path.removesuffix(".py").replace("/", ".")

    @property
    def meta(self) -> Path:
        return self.work / "mutants" / SOURCE / f"{self.path}.meta"

    @property
    def noticed(self) -> Path:
        return self.work / "noticed.json"

    def prepare(self, again: bool) -> None:
        if again:
            self.keep_noticed()
        else:
            shutil.rmtree(self.work, ignore_errors=True)
        self.work.mkdir(parents=True, exist_ok=True)
        for name in ("src", *READ_BY_TESTS):
            link = self.work / name
            if not link.exists():
                link.symlink_to(ROOT / name)

    def keep_noticed(self) -> None:
        """mutmut tries what it has no result of, and what has changed. Each choice of tests has it forget its results,
        and which tests reach what."""
        if self.meta.exists() and self.noticed.exists():
            known, names = (json.loads(path.read_text(encoding="utf-8")) for path in (self.meta, self.noticed))
            known["exit_code_by_key"] = {name: 1 if name in names else None for name in known["exit_code_by_key"]}
            self.meta.write_text(json.dumps(known), encoding="utf-8")
        (self.work / "mutants" / "mutmut-stats.json").unlink(missing_ok=True)

    def configure(self, tests: Sequence[str]) -> None:
        """mutmut reads pyproject.toml where it runs."""
        project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["pytest"]["ini_options"]
        mutmut = {
            "source_paths": ["src"],
            "only_mutate": [f"{SOURCE}/{self.path}"],
            "also_copy": list(READ_BY_TESTS),
            "pytest_add_cli_args": OPTIONS,
            "pytest_add_cli_args_test_selection": list(tests),
            "timeout_constant": 2.0,
            "timeout_multiplier": 8.0,
            "use_git_change_detection": False,
            "on_dependency_change": "ignore",
        }
        kept = {name: project[name] for name in ("pythonpath", "asyncio_mode", "markers")}
        tables = {"tool.mutmut": mutmut, "tool.pytest.ini_options": kept}
        lines = [
            f"[{name}]\n" + "".join(f"{key} = {json.dumps(value)}\n" for key, value in table.items())
            for name, table in tables.items()
        ]
        (self.work / "pyproject.toml").write_text("\n".join(lines), encoding="utf-8")

    def found(self) -> Mapping[str, str]:
        """What came of each mutant."""
        codes = json.loads(self.meta.read_text(encoding="utf-8"))["exit_code_by_key"] if self.meta.exists() else {}
        return {name: status_by_exit_code[code] for name, code in codes.items()}

    def try_all(self, until: float) -> list[Mutant]:
        """Every mutant, first with the nearest tests, then what they left with all."""
        statuses: dict[str, str] = {}
        stages = [self.tests[:1]] + ([self.tests] if len(self.tests) > 1 else [])
        for tests in stages:
            left = [name for name, status in statuses.items() if status in ("survived", "no tests")]
            if statuses and not left:
                break
            self.configure(tests)
            self.mutmut(left, until)
            found = self.found()
            asked = set(left or found)
            statuses = {
                name: status if name in asked and status != "not checked" else statuses.get(name, "not checked")
                for name, status in found.items()
            }
        for name in [name for name, status in statuses.items() if status == "no tests"]:
            statuses[name] = self.try_in_other_processes(name, until)
        # What took too long is tried again: it may have been for others on the machine.
        noticed = [name for name, status in statuses.items() if status in NOTICED and status != "timeout"]
        self.noticed.write_text(json.dumps(noticed), encoding="utf-8")
        return [self.mutant(name, status) for name, status in statuses.items()]

    def mutmut(self, names: Sequence[str], until: float) -> None:
        command = [str(Path(sys.executable).with_name("mutmut")), "run", "--max-children", "1", *names]
        log = self.work / "log.txt"
        with log.open("w") as written:
            try:
                ended = subprocess.run(
                    command, cwd=self.work, env=ENVIRONMENT, check=False, stdout=written, stderr=subprocess.STDOUT,
                    timeout=max(1.0, until - time.monotonic()),
                )  # fmt: skip
            except subprocess.TimeoutExpired:
                return
        if ended.returncode:
            sys.exit(f"{self.path}: mutmut failed, see {log}\n{log.read_text(encoding='utf-8')[-3000:]}")

    def try_in_other_processes(self, name: str, until: float) -> str:
        """What comes of one that no test reaches in its own process: a test may start or fork another one that does."""
        there = self.work / "mutants"
        environment = {**ENVIRONMENT, "PYTHONPATH": str(there / "src"), "MUTANT_UNDER_TEST": name}
        command = [sys.executable, "-m", "pytest", "-q", "-x", *OPTIONS, *self.tests]
        try:
            ended = subprocess.run(
                command, cwd=there, env=environment, check=False, capture_output=True,
                timeout=max(1.0, until - time.monotonic()),
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            return "not checked"
        if ended.returncode in NO_VERDICT:
            sys.exit(f"{name}: pytest ended with {ended.returncode}\n{ended.stdout.decode()[-3000:]}")
        return "killed" if ended.returncode else "survived"

    def mutant(self, name: str, status: str) -> Mutant:
        if status in NOTICED or status == "not checked":
            return Mutant(name, status, "", "")
        with chdir(self.work):
            lines = get_diff_for_mutant(name, path=f"{SOURCE}/{self.path}").splitlines()[2:]
        was, becomes = (" ".join(line[1:].strip() for line in lines if line.startswith(sign)) for sign in "-+")
        return Mutant(name, status, was, becomes)


def modules() -> dict[str, Module]:
    rows = yaml.safe_load((HERE / "modules.yaml").read_text(encoding="utf-8"))
    return {path: Module(path, [f"tests/{test}" for test in tests]) for path, tests in rows.items()}


def changed_since(base: str) -> list[str]:
    """The files of the library that differ from a commit, and stand in `modules.yaml`."""
    command = ["git", "diff", "--name-only", "--diff-filter=d", base, "--", SOURCE]
    names = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout.splitlines()
    known = modules()
    paths = [name.removeprefix(f"{SOURCE}/") for name in names]
    for path in paths:
        if path not in known:
            print(f"{path}: not in tests/mutation/modules.yaml, not tried")
    return [path for path in paths if path in known]


def equivalents(path: str) -> Iterator[Mapping[str, Any]]:
    for row in yaml.safe_load((HERE / "equivalent.yaml").read_text(encoding="utf-8")) or []:
        if row["module"] == path:
            yield row


def is_equivalent(mutant: Mutant, rows: Iterable[Mapping[str, Any]]) -> bool:
    return any(row["was"] == mutant.was and mutant.becomes in row["becomes"] for row in rows)


def row_of(path: str, mutants: Sequence[Mutant], survivors: Sequence[Mutant]) -> str:
    by_status = Counter(mutant.status for mutant in mutants)
    noticed = sum(by_status[status] for status in NOTICED)
    untried = by_status["not checked"]
    same = len(mutants) - untried - noticed - len(survivors)
    share = f"{noticed / (noticed + len(survivors)):.1%}" if noticed + len(survivors) else "-"
    return f"| `{path}` | {len(mutants) - untried} | {noticed} | {same} | {len(survivors)} | {share} | {untried} |"


def main() -> int:
    words = argparse.ArgumentParser(description=__doc__)
    words.add_argument("files", nargs="*")
    words.add_argument("--base")
    words.add_argument("--minutes", type=float, default=24 * 60.0)
    words.add_argument("--again", action="store_true")
    asked = words.parse_args()
    known = modules()
    paths = [path.removeprefix(f"{SOURCE}/") for path in asked.files]
    if unknown := sorted(set(paths) - set(known)):
        sys.exit(f"tests/mutation/modules.yaml names no tests for {', '.join(unknown)}")
    paths = changed_since(asked.base) if asked.base else paths or list(known)
    until = time.monotonic() + 60 * asked.minutes
    noticed = left = 0
    rows = []
    for path in paths:
        if time.monotonic() > until:
            print(f"{path}: not tried, the time was over")
            continue
        module = known[path]
        module.prepare(asked.again)
        mutants = module.try_all(until)
        same = list(equivalents(path))
        lasting = [mutant for mutant in mutants if mutant.was or mutant.becomes]
        survivors = [mutant for mutant in lasting if not is_equivalent(mutant, same)]
        for mutant in survivors:
            print(f"{path} {mutant.name.rpartition('.')[2]} ({mutant.status})\n  - {mutant.was}\n  + {mutant.becomes}")
        noticed += sum(mutant.status in NOTICED for mutant in mutants)
        left += len(survivors)
        rows.append(row_of(path, mutants, survivors))
        print(rows[-1], flush=True)
    print("\n| module | mutants | killed | equivalent | survived | score | not tried |")
    print("\n".join(("|---|---:|---:|---:|---:|---:|---:|", *rows)))
    return int(noticed + left > 0 and noticed < GOAL * (noticed + left))


if __name__ == "__main__":
    sys.exit(main())
