"""What pydantic found wrong, in the words of somebody who wants it put right.

Every text says what is wrong and names the value, unless it is a secret; the remedy is the nearest valid
name, or this library's word for one from elsewhere.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from difflib import get_close_matches
from functools import partial
from typing import Any, TypeVar, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails
from typing_extensions import is_typeddict

from llm_fallback.spec.marks import Path, Places, Problem
from llm_fallback.spec.secrecy import shown
from llm_fallback.spec.translations import PER_TOKEN, WORDS

_M = TypeVar("_M", bound=BaseModel)

_KINDS = {
    "string_type": "a string",
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "decimal_type": "a number",
    "decimal_parsing": "a number",
    "finite_number": "a finite number",
    "bool_type": "true or false",
    "dict_type": "a mapping",
    "model_type": "a mapping",
    "tuple_type": "a list",
    "list_type": "a list",
}
_BOUNDS = {
    "greater_than": ("gt", "greater than"),
    "greater_than_equal": ("ge", "at least"),
    "less_than_equal": ("le", "at most"),
}
_BESIDE_WORD = {"after_s": "a number of seconds"}
_OWNERS = ("deployments", "chains")


def parsed(
    kind: type[_M],
    data: Mapping[str, Any],
    places: Places | None = None,
    *,
    whole: type[BaseModel] | None = None,
) -> _M | list[Problem]:
    """The data as a `kind`, or everything wrong with its parts.

    `whole` is what the kind is a part of, to tell where a word that does not belong here does.
    """
    try:
        return kind.model_validate(data, context=places)
    except ValidationError as error:
        errors = error.errors(include_url=False)
    return [_problem(kind, whole or kind, details) for details in errors if details["loc"] and not _echo(details)]


def _echo(error: ErrorDetails) -> bool:
    """Whether a list is called too short only because what is in it is wrong, which is reported by itself."""
    return error["type"] == "too_short" and bool(error["input"])


def _problem(root: type[BaseModel], whole: type[BaseModel], error: ErrorDetails) -> Problem:
    # Members of a union carry a tag of ours in their path; tags are not written by anybody.
    path = tuple(part for part in error["loc"] if not str(part).startswith("<"))
    if error["type"] == "extra_forbidden":
        return Problem(path, f"unknown key {path[-1]!r}", _better_key(root, whole, path, error["input"]))
    text, remedy = _fault(error, path)
    return Problem(path, text, remedy)


def _fault(error: ErrorDetails, path: Path) -> tuple[str, str | None]:
    kind, context = error["type"], error.get("ctx", {})
    got = partial(_with_value, value=error["input"], path=path)
    if kind == "spec":
        return context["text"], context["remedy"]
    if kind == "missing":
        return "is missing", None
    if kind == "too_short" or kind == "string_too_short":
        return "is empty", None
    if kind == "literal_error":
        return _choice(got, error, path)
    if kind in _BOUNDS:
        bound, words = _BOUNDS[kind]
        return got(f"must be {words} {_number(context[bound])}"), None
    return got(f"must be {_KINDS[kind]}" if kind in _KINDS else error["msg"]), _no_variable(error["input"])


def _with_value(text: str, *, value: Any, path: Path) -> str:
    got = shown(value, path)
    return text if got is None else f"{text}, got {got}"


def _choice(got: Callable[[str], str], error: ErrorDetails, path: Path) -> tuple[str, str | None]:
    expected = error["ctx"]["expected"].removesuffix(" or False")
    close = get_close_matches(str(error["input"]), re.findall(r"'([^']*)'", expected), n=1)
    beside = _BESIDE_WORD.get(str(path[-1]), "a mapping") if error["loc"][-1] == "<word>" else None
    text = f"must be {expected} or {beside}" if beside else f"must be {expected}"
    return got(text), f"did you mean {close[0]!r}?" if close else None


def _no_variable(value: Any) -> str | None:
    if isinstance(value, str) and "${" in value:
        return "variables stand only in model, base_model, api_key, api_base, params and budget.file"
    return None


def _number(value: Any) -> str:
    return f"{value:g}"


def _better_key(root: type[BaseModel], whole: type[BaseModel], path: Path, value: Any) -> str:
    around, word = path[:-1], str(path[-1])
    here = _words(root, around)
    return (
        _translation(root, around, word, value)
        or _in_section(root, around, word)
        or next((f"did you mean {close!r}?" for close in get_close_matches(word, here, n=1)), None)
        or _elsewhere(whole, word, value)
        or f"known are {', '.join(here)}"
    )


def _translation(root: type[BaseModel], around: Path, word: str, value: Any) -> str | None:
    """Our word for one from elsewhere, if what it means can be said here."""
    for target in _targets(word):
        for reach in (target, target.rpartition(".")[2]):
            if _exists(root, around, reach):
                return f"here it is {reach!r}" + _converted(word, value)
    return None


def _in_section(root: type[BaseModel], around: Path, word: str) -> str | None:
    sections = (section for section in _words(root, around) if word in _words(root, (*around, section)))
    return next((f"it stands in {section!r}: {section}.{word}" for section in sections), None)


def _elsewhere(root: type[BaseModel], word: str, value: Any) -> str | None:
    """Where a word, ours or another's, belongs seen from the top: `chains.<name>.retries.max`."""
    for owner in _OWNERS:
        around = (owner, "<name>")
        sections = (f"{section}.{word}" for section in _words(root, around) if section != "params")
        for target in (*_targets(word), word, *sections):
            if _exists(root, around, target):
                return f"here it is '{owner}.<name>.{target}'" + _converted(word, value)
    return next((f"here it is {target!r}" for target in _targets(word) if _exists(root, (), target)), None)


def _targets(word: str) -> tuple[str, ...]:
    return WORDS.get(word.lower().replace("-", "_"), ())


def _converted(word: str, value: Any) -> str:
    if word not in PER_TOKEN:
        return ""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return f", a million times as much: {value * 1_000_000:.10g}"
    return ", a million times as much"


def _exists(root: type[BaseModel], around: Path, target: str) -> bool:
    *sections, word = target.split(".")
    place = (*around, *sections)
    return word in _words(root, place) or (place[-1:] == ("params",) and "params" in _words(root, around))


def _words(root: type[BaseModel], path: Path) -> tuple[str, ...]:
    """The keys that may be written at a path."""
    kinds: list[Any] = [root]
    for part in path:
        kinds = [inner for kind in kinds for inner in _inside(kind, part)]
    return tuple(word for kind in kinds for word in _fields(kind))


def _inside(kind: Any, part: str | int) -> list[Any]:
    if get_origin(kind) is dict:
        return _members(get_args(kind)[1])
    return _members(_fields(kind).get(str(part)))


def _fields(kind: Any) -> dict[str, Any]:
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        return {name: field.annotation for name, field in kind.model_fields.items()}
    return dict(kind.__annotations__) if is_typeddict(kind) else {}


def _members(annotation: Any) -> list[Any]:
    """The members of a union, with what is only annotated laid bare."""
    origin = get_origin(annotation)
    if origin is dict or not get_args(annotation):
        return [annotation]
    return [member for argument in get_args(annotation) for member in _members(argument)]
