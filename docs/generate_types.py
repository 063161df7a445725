"""Writes src/llm_fallback/spec/typed_dicts.py from the models of a spec: `python docs/generate_types.py`.

A TypedDict for each model, for who writes a spec in Python: editors complete its keys and checkers read them.
"""

from __future__ import annotations

import json
import types
import typing
from collections.abc import Callable, Iterable, Iterator
from decimal import Decimal
from pathlib import Path
from textwrap import wrap
from typing import Annotated, Any, Literal, get_args, get_origin

from pydantic import SecretStr, WithJsonSchema
from pydantic.fields import FieldInfo

from llm_fallback.spec import Spec
from llm_fallback.spec.model_profile import Profile
from llm_fallback.spec.settings import Part

MODULE = Path(__file__).parents[1] / "src/llm_fallback/spec/typed_dicts.py"

HEAD = '''"""A spec as plain data, for type checkers and editors: a TypedDict for each of its parts.

Made from the models of a spec; `make docs` writes it anew.

    spec: SpecDict = {"deployments": {"own": {"model": "openai/gpt-4.1"}}, "chains": {"main": {"tiers": ["own"]}}}
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from decimal import Decimal
from typing import Any, Literal, Required

from pydantic import SecretStr
from typing_extensions import TypedDict

from llm_fallback.spec.model_profile import Profile
'''

_PLAIN: dict[Any, str] = {
    str: "str",
    int: "int",
    float: "float",
    bool: "bool",
    Any: "Any",
    type(None): "None",
    Decimal: "Decimal",
    SecretStr: "SecretStr",
    Profile: "Profile",
}
_ONLY_PYTHON = ("Callable", "SecretStr", "Decimal")
"""What no JSON Schema tells, and a mapping in Python may hold."""
_JSON = {"string": "str", "number": "float", "integer": "int", "boolean": "bool"}
_WIDTH = 120


def module() -> str:
    """The module, whole."""
    kinds = list(dict.fromkeys(_parts_of(Spec)))
    return "\n\n".join([HEAD, *map(_typed_dict, kinds)])


def _parts_of(kind: type[Part]) -> Iterator[type[Part]]:
    """The models that a model inherits from and is made of, each before those that need it, and itself."""
    for base in kind.__bases__:
        if issubclass(base, Part) and base is not Part:
            yield from _parts_of(base)
    for field in kind.model_fields.values():
        for part in _models_in(field.annotation):
            yield from _parts_of(part)
    yield kind


def _models_in(annotation: Any) -> Iterator[type[Part]]:
    if isinstance(annotation, type) and issubclass(annotation, Part):
        yield annotation
    for argument in get_args(annotation):
        yield from _models_in(argument)


def _typed_dict(kind: type[Part]) -> str:
    inherited = [base for base in kind.__bases__ if issubclass(base, Part) and base is not Part]
    bases = ", ".join(f"{base.__name__}Dict" for base in inherited) or "TypedDict"
    lines = [f"class {kind.__name__}Dict({bases}, total=False):", *_docstring(kind.__doc__ or "")]
    known = {name for base in inherited for name in base.model_fields}
    for name, field in kind.model_fields.items():
        if name not in known:
            lines += ["", f"    {name}: {_field(field)}", *_docstring(field.description or "")]
    return "\n".join([*lines, ""])


def _docstring(text: str) -> list[str]:
    """The text in quotes below what it describes, wrapped like code."""
    if not text:
        return []
    lines = wrap(f'"""{" ".join(text.split())}"""', _WIDTH - 4, break_on_hyphens=False)
    if len(lines) > 1:
        lines[-1:] = [lines[-1].removesuffix('"""'), '"""']
    return [f"    {line}" for line in lines if line]


def _field(field: FieldInfo) -> str:
    annotation = field.annotation
    for extra in reversed(field.metadata):
        annotation = Annotated[annotation, extra]
    text = _union(_members(annotation))
    return f"Required[{text}]" if field.is_required() else text


def _union(members: Iterable[str]) -> str:
    """The members once each, None last."""
    once = dict.fromkeys(members)
    return " | ".join(sorted(once, key=lambda member: member == "None"))


def _members(annotation: Any) -> list[str]:
    """The members of the union that an annotation is."""
    if annotation in _PLAIN:
        return [_PLAIN[annotation]]
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _annotated(*arguments)
    if origin in (typing.Union, types.UnionType):
        return [member for argument in arguments for member in _members(argument)]
    if origin is Literal:
        return [_literal(arguments)]
    if origin is dict:
        return [f"Mapping[{', '.join(_union(_members(argument)) for argument in arguments)}]"]
    if origin in (tuple, list):
        return [f"Sequence[{_union(_members(arguments[0]))}]"]
    if origin is frozenset:
        return [f"Collection[{_union(_members(arguments[0]))}]"]
    if origin is get_origin(Callable[..., Any]):
        takes = "..." if arguments[0] is ... else f"[{', '.join(_union(_members(taken)) for taken in arguments[0])}]"
        return [f"Callable[{takes}, {_union(_members(arguments[1]))}]"]
    if isinstance(annotation, type) and issubclass(annotation, Part):
        return [f"{annotation.__name__}Dict"]
    raise TypeError(f"{annotation!r} has no place in a TypedDict yet")


def _literal(values: Iterable[str | bool]) -> str:
    return f"Literal[{', '.join(json.dumps(value) if isinstance(value, str) else str(value) for value in values)}]"


def _annotated(inner: Any, *extras: Any) -> list[str]:
    """What JSON may hold there, where a schema says it, and what only Python has."""
    members = _members(inner)
    for extra in extras:
        if isinstance(extra, WithJsonSchema) and extra.json_schema is not None:
            return [*_of_schema(extra.json_schema), *(each for each in members if each.startswith(_ONLY_PYTHON))]
    return members


def _of_schema(schema: dict[str, Any]) -> list[str]:
    if "anyOf" in schema:
        members = [member for each in schema["anyOf"] for member in _of_schema(each)]
        return [member for member in members if "str" not in members or not member.startswith("Literal")]
    if "enum" in schema:
        return [_literal(schema["enum"])]
    if schema["type"] == "array":
        return [f"Sequence[{_union(_of_schema(schema['items']))}]"]
    return [_JSON[schema["type"]]]


if __name__ == "__main__":
    MODULE.write_text(module(), encoding="utf-8")
