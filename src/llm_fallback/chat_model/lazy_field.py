"""A field of a pydantic model whose value is worked out when it is read."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class LazyField:
    """A field that a base class declares as plain, and whose value follows from something that changes or is dear.

    pydantic keeps the values of fields in the instance's `__dict__` and has no field that is computed on access and
    can still be given to the constructor. Without an entry there, Python asks the model's `__getattr__`, which hands
    the question on to `read`. A property would not do: pydantic replaces it by the base class's field.
    """

    name: str
    compute: Callable[[Any], Any]
    """From the model to the value."""
    is_kept: bool = False
    """Whether the value is computed once; else each time."""

    def clear(self, model: Any) -> None:
        """Forget the value that the model's constructor put there."""
        model.__dict__.pop(self.name, None)

    def read(self, model: Any) -> Any:
        """The value; what `__getattr__` returns for the field's name."""
        value = self.compute(model)
        if self.is_kept:
            model.__dict__[self.name] = value
        return value
