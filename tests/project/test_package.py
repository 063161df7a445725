"""What a stranger sees first: the page on PyPI, the links of the pages, the picture of the demo, the steps of CI."""

import re
import subprocess
import tomllib
from html import unescape
from pathlib import Path

import pytest
import yaml

from llm_fallback.cli.scenes import SCENES

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
REPOSITORY = PROJECT["urls"]["Repository"]
README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = sorted(str(p.relative_to(ROOT)) for p in (*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")))


def file_of(address: str) -> Path | None:
    """The file or folder of the project that an address shows; None where it shows something else."""
    owned = (f"{REPOSITORY}/blob/main/", f"{REPOSITORY}/tree/main/")
    raw = REPOSITORY.replace("https://github.com/", "https://raw.githubusercontent.com/") + "/main/"
    for beginning in (*owned, raw):
        if address.startswith(beginning):
            return ROOT / address.removeprefix(beginning).partition("#")[0]
    return None


def addresses(text: str) -> list[str]:
    """The addresses a page links to."""
    return re.findall(r"https?://[^\s)>\"'`]+", text)


@pytest.mark.parametrize("page", [*PAGES, "pyproject.toml"])
def test_an_address_of_our_own_repository_shows_a_file_there_is(page):
    """`blob/` a file, `tree/` a folder, raw what a picture needs; what is not a path is one of GitHub's own pages."""
    for address in addresses((ROOT / page).read_text(encoding="utf-8")):
        found = file_of(address)
        if found is not None:
            assert found.is_dir() if "/tree/main/" in address else found.is_file(), address
        elif address.startswith(REPOSITORY):
            assert address.removeprefix(REPOSITORY) in ("", "/issues", "/security/advisories/new"), address


def test_the_readme_has_no_link_that_is_dead_on_pypi():
    """Every link and picture is absolute, and every `[name]` that is meant as a link is defined."""
    assert re.findall(r"\]\((?!https://)[^)]*\)", README) == []
    prose = re.sub(r"^```.*?^```$|`[^`]*`", "", README, flags=re.MULTILINE | re.DOTALL)
    named = set(re.findall(r"(?<!!)\[([^\]]+)\](?![(:])", prose))
    assert named == set(re.findall(r"^\[([^\]]+)\]: https://", README, re.MULTILINE))
    assert {str(file_of(address)) for address in addresses(README)} > {str(ROOT / "docs/demo.svg")}


def test_the_first_commands_of_the_readme_are_those_of_a_pip_user():
    """Install, then something to see; what needs a checkout comes later."""
    first = re.search(r"^```sh\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
    assert first is not None
    assert re.findall(r"^(pip install \S+|llm-fallback \w+|make \w+)", first[1], re.MULTILINE) == [
        f"pip install {PROJECT['name']}",
        "llm-fallback demo",
    ]


def test_the_tables_of_the_readme_are_those_of_the_page_on_performance():
    """The three that decide, each row as it was measured."""
    measured = (ROOT / "docs/performance.md").read_text(encoding="utf-8").splitlines()
    section = README.partition("## Beside the others")[2].partition("\n## ")[0]
    rows = [line for line in section.splitlines() if line.startswith("|")]
    assert sum(line.startswith("|---") for line in rows) == 3
    assert set(rows) <= set(measured)


def test_the_picture_of_the_demo_is_of_this_demo():
    """It shows every scene, fetches nothing, and has no line of waiting in it."""
    text = unescape((ROOT / "docs/demo.svg").read_text(encoding="utf-8")).replace("\xa0", " ")
    for number, scene in enumerate(SCENES, 1):
        assert f"{number} {scene.title}" in text
        assert scene.happens in text
    assert not re.search(r"url\((?!#)|href=|@import|Importing", text)


def test_the_classifiers_are_of_the_versions_that_are_tested():
    """3.11 to 3.14, the oldest of them the one that is required."""
    named = [each.rpartition(" ")[2] for each in PROJECT["classifiers"] if re.search(r":: 3\.\d+$", each)]
    tested = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text(encoding="utf-8"))
    assert named == tested["jobs"]["test"]["strategy"]["matrix"]["python"] == ["3.11", "3.12", "3.13", "3.14"]
    assert PROJECT["requires-python"] == f">={named[0]}"


def test_the_workflows_name_steps_that_there_are():
    """Each step of the matrix is one `.ci/run` knows; it refuses any other by its name."""
    read = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text(encoding="utf-8"))
    matrix = read["jobs"]["test"]["strategy"]["matrix"]
    steps = {*matrix["step"], *(each["step"] for each in matrix["include"])}
    script = (ROOT / ".ci/run").read_text(encoding="utf-8")
    known = re.findall(r"[\w-]+", " ".join(re.findall(r"^ +([\w| -]+)\) run", script, re.MULTILINE)))
    assert steps <= set(known)
    refused = subprocess.run(["bash", ROOT / ".ci/run", "lints"], capture_output=True, text=True, check=False)
    assert (refused.returncode, refused.stderr) == (2, "no step is called lints\n")
