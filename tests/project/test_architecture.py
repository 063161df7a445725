"""docs/architecture.md: it lists every module, shows the floors that are enforced, and names only what there is."""

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
