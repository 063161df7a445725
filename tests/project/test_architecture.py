"""docs/architecture.md: it lists every module, shows the floors that are enforced, and names only what there is.

CONTRIBUTING.md: it says of every module where its tests are.
"""

from __future__ import annotations

import importlib
import importlib.util
import pkgutil
import re
import tomllib
from pathlib import Path
from types import ModuleType

import llm_fallback

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs/architecture.md"
PACKAGES = "|".join(sorted(module.name for module in pkgutil.iter_modules(llm_fallback.__path__)))


def generator() -> ModuleType:
    """docs/generate_module_list.py, which is in no package."""
    location = importlib.util.spec_from_file_location("generate_module_list", ROOT / "docs/generate_module_list.py")
    assert location is not None
    assert location.loader is not None
    module = importlib.util.module_from_spec(location)
    location.loader.exec_module(module)
    return module


def parts() -> tuple[str, str]:
    """The list of modules, and the page without it."""
    generate, text = generator(), PAGE.read_text(encoding="utf-8")
    before, _, rest = text.partition(generate.START)
    listed, _, after = rest.partition(generate.END)
    return listed, before + after


def in_full(cell: str) -> list[str]:
    """The paths in a cell; one without a folder is in the folder of the one before."""
    full: list[str] = []
    for path in re.findall(r"`([^`]+)`", cell):
        folder = full[-1].rpartition("/")[0] if full and "/" not in path else ""
        full.append(f"{folder}/{path}".lstrip("/"))
    return full


def is_there(path: str) -> bool:
    """Whether a path below `llm_fallback` leads to a module, class, function, method or field."""
    module, *names = path.split(".")
    found = importlib.import_module(f"llm_fallback.{module}")
    for name in names:
        if isinstance(found, ModuleType) and not hasattr(found, name):
            try:
                found = importlib.import_module(f"{found.__name__}.{name}")
            except ModuleNotFoundError:
                return False
        elif hasattr(found, name):
            found = getattr(found, name)
        else:
            return False
    return True


def test_the_list_of_modules_says_what_their_docstrings_say():
    """Every module, with the first line of its docstring; `make docs` writes it."""
    listed, _ = parts()
    expected = generator().module_list()
    assert listed == expected, f"run `make docs`, or paste:\n{expected}"


def test_the_floors_are_those_of_the_import_contract():
    """The picture has the layers of pyproject.toml, in their order."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    (layers,) = [own["layers"] for own in project["tool"]["importlinter"]["contracts"] if own["id"] == "floors"]
    picture = parts()[1].partition("```text\n")[2].partition("```")[0]
    assert [re.split("  +", line)[0] for line in picture.splitlines()] == layers


def test_what_the_walks_and_the_glossary_name_is_there():
    """By its path below `llm_fallback`."""
    names = set(re.findall(rf"`((?:{PACKAGES})(?:\.\w+)+)`", parts()[1]))
    assert len(names) > 50
    assert sorted(name for name in names if not is_there(name)) == []


def test_every_module_has_a_test_file_or_a_row_that_says_where_it_is_tested():
    """In CONTRIBUTING.md; never both, and no row names what is not there. A folder's row is for the rest of it."""
    table = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8").partition("| module | tests |\n|---|---|\n")[2]
    rows = [row.strip("|").split("|") for row in table.partition("\n\n")[0].splitlines()]
    told = [path for modules, _ in rows for path in in_full(modules)]
    source = ROOT / "src/llm_fallback"
    modules = {path.relative_to(source) for path in source.rglob("*.py") if not path.name.startswith("__")}
    named = {path for path in told if not path.endswith("/")}
    untested = {
        path.with_suffix("").as_posix(): f"{path.parent.as_posix()}/"
        for path in modules
        if not (ROOT / "tests" / path.with_name(f"test_{path.name}")).exists()
    }
    assert named - set(untested) == set(), "a row, though there is a test file or no such module"
    assert [path for path, folder in untested.items() if path not in named and folder not in told] == []
    assert [path for _, tests in rows for path in in_full(tests) if not (ROOT / path).exists()] == []
