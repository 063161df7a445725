"""Writes the list of modules in docs/architecture.md from their docstrings: `python docs/generate_module_list.py`."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

PAGE = Path(__file__).with_name("architecture.md")
PACKAGE = Path(__file__).parents[1] / "src" / "llm_fallback"
START, END = "<!-- modules -->\n", "<!-- end of modules -->\n"


def page() -> str:
    """The page, with the list as it should be."""
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(START)
    return before + START + module_list() + END + rest.partition(END)[2]


def module_list() -> str:
    """An entry for each module and package, with the first line of its docstring."""
    return "\n" + "".join(_entries(PACKAGE, 0)) + "\n"


def _entries(package: Path, depth: int) -> Iterator[str]:
    modules = sorted(package.glob("*.py"))
    packages = sorted(path.parent for path in package.glob("*/__init__.py"))
    for path in modules:
        if path.name != "__init__.py" or depth == 0:
            yield _entry(path.name, path, depth)
    for path in packages:
        yield _entry(f"{path.name}/", path / "__init__.py", depth)
        yield from _entries(path, depth + 1)


def _entry(name: str, module: Path, depth: int) -> str:
    return f"{'  ' * depth}- `{name}` {caption(module)}\n"


def caption(module: Path) -> str:
    """The first line of the module's docstring."""
    docstring = ast.get_docstring(ast.parse(module.read_text(encoding="utf-8")))
    assert docstring, f"{module} has no docstring"
    return docstring.splitlines()[0]


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
