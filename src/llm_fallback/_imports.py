"""Names that load on first use, what a path `package.module:name` names, and how to load much at once."""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import import_module
from operator import attrgetter
from typing import Any


def lazy_exports(
    namespace: dict[str, Any], homes: Mapping[str, Sequence[str]]
) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """`__getattr__` and `__dir__` of a package whose names load on first use.

    `namespace` are the package's `globals()`, `homes` the modules that hold the names.
    """
    package = namespace["__name__"]
    module_of = {name: module for module, names in homes.items() for name in names}

    def load(name: str) -> Any:
        if name not in module_of:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        with collecting_later():
            value = namespace[name] = getattr(import_module(module_of[name]), name)
        return value

    return load, lambda: sorted({*namespace, *namespace["__all__"]})


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
        module_spec = next(filter(None, (finder.find_spec(name, inside) for finder in sys.meta_path)), None)
        if module_spec is None and name not in sys.modules:
            return False
        inside = module_spec.submodule_search_locations if module_spec else getattr(sys.modules[name], "__path__", None)
        inside = list(inside or ())
    return True


@contextmanager
def collecting_later() -> Iterator[None]:
    """Around imports of thousands of modules, all of which stay: to look among them for garbage, again and again, takes
    a quarter of the time. What came to be meanwhile counts as old: the next look at what is young passes it over."""
    if not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        if gc.get_freeze_count() == 0:  # What somebody froze for good, before a fork say, is not ours to thaw.
            gc.freeze()
            gc.unfreeze()  # To the oldest generation, whatever it came from.
        gc.enable()
