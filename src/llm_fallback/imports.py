"""Import paths, `package.module:name`: what they name, and whether their module is there."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module
from operator import attrgetter
from typing import Any


def imported(path: str) -> Any:
    """What the path names. Raises ImportError or AttributeError where there is no such thing."""
    module, _, name = path.partition(":")
    return attrgetter(name)(import_module(module))


def is_found(path: str) -> bool:
    """Whether the path's module can be found. Nothing is imported: no code of anybody's runs."""
    inside: Sequence[str] | None = None
    name = ""
    for part in path.partition(":")[0].split("."):
        name = f"{name}.{part}" if name else part
        # By hand, because importlib.util.find_spec imports the packages on its way.
        found = next(filter(None, (finder.find_spec(name, inside) for finder in sys.meta_path)), None)
        if found is None and name not in sys.modules:
            return False
        inside = list(found.submodule_search_locations or ()) if found else sys.modules[name].__path__
    return True
