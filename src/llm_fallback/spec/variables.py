"""Environment variables in a spec's texts.

    ${VAR}             the variable's value; it must be set
    ${VAR:-default}    the default where the variable is unset or empty
    ${VAR:?message}    must be set and not empty; the message is shown where it is not
    $$                 a single $
    os.environ/VAR     litellm's way of writing ${VAR}; only as a whole text

Any other `$` stands for itself. Nothing here reads the process's environment: it is handed in.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import SecretStr

from llm_fallback.errors import Mistake, SpecError
from llm_fallback.spec.locations import LocationMap, Path, Problem

_NAME = r"[A-Za-z_][A-Za-z0-9_]*"
_TAIL = r"(?:[^$}]|\$(?!\{))*"
_TOKEN = re.compile(rf"\$\$|\$\{{(?P<name>{_NAME})(?::-(?P<default>{_TAIL})|:\?(?P<message>{_TAIL}))?\}}")
_LITELLM = re.compile(rf"os\.environ/(?P<name>{_NAME})")


@dataclass(frozen=True, slots=True)
class Reference:
    """One variable named in a text."""

    name: str
    default: str | None = None
    message: str | None = None
    """Shown where the variable is not set."""

    def value(self, environ: Mapping[str, str]) -> str | None:
        """The value that replaces it; None if the variable is missing."""
        value = environ.get(self.name)
        if self.default is not None:
            return value or self.default
        if self.message is not None:
            return value or None
        return value

    def missing(self) -> str:
        """The text of the mistake that it is not set."""
        return f"the variable {self.name} is not set" + (f": {self.message}" if self.message else "")


def references(text: str) -> tuple[Reference, ...]:
    """The variables in a text, in order, repeated ones too."""
    if whole := _LITELLM.fullmatch(text):
        return (Reference(whole["name"]),)
    return tuple(_reference(token) for token in _TOKEN.finditer(text) if token["name"])


def malformed(text: str) -> bool:
    """Whether a `${` in the text begins no variable, as in `${A`, `${1}` or `${A:+b}`."""
    return "${" in beside(text)


def beside(text: str) -> str:
    """The text without its variables."""
    return "" if _LITELLM.fullmatch(text) else _TOKEN.sub("", text)


def unset(text: str, environ: Mapping[str, str]) -> tuple[Reference, ...]:
    """The variables of a text that have neither a value nor a default."""
    return tuple(reference for reference in references(text) if reference.value(environ) is None)


def resolve(text: str, environ: Mapping[str, str]) -> str:
    """The text with values in place of its variables. Raises SpecError naming every one that is not set."""
    if not unset(text, environ):
        return filled(text, environ)
    mistakes = [Mistake("", reference.missing()) for reference in unset(text, environ)]
    # The error's traceback shows this frame, so it must hold no secret.
    del text, environ
    raise SpecError(mistakes)


class Environment:
    """Resolves many texts against one environment and collects a mistake for every variable that is not set."""

    def __init__(self, environ: Mapping[str, str], locations: LocationMap | None = None) -> None:
        self._environ = environ
        self._locations = LocationMap() if locations is None else locations
        self.mistakes: list[Mistake] = []
        """One for each unset variable so far, with its location."""

    def text(self, text: str, path: Path) -> str:
        """The text with values in place of its variables; an unset one is left empty and noted in `mistakes`."""
        for reference in unset(text, self._environ):
            self.mistakes.append(Problem(path, reference.missing()).at(self._locations))
        return filled(text, self._environ)

    def value(self, value: Any, path: Path) -> Any:
        """The same for every text in nested data; a SecretStr stays one."""
        match value:
            case str():
                return self.text(value, path)
            case SecretStr():
                return SecretStr(self.text(value.get_secret_value(), path))
            case Mapping():
                return {key: self.value(item, (*path, key)) for key, item in value.items()}
            case list() | tuple():
                return [self.value(item, (*path, index)) for index, item in enumerate(value)]
        return value


def _reference(token: re.Match[str]) -> Reference:
    return Reference(token["name"], _unescaped(token["default"]), _unescaped(token["message"]))


def _unescaped(text: str | None) -> str | None:
    return None if text is None else text.replace("$$", "$")


def filled(text: str, environ: Mapping[str, str]) -> str:
    """The text with values in place of its variables, and nothing in place of one that is not set."""
    if whole := _LITELLM.fullmatch(text):
        return environ.get(whole["name"], "")
    return _TOKEN.sub(lambda token: _replacement(token, environ), text)


def _replacement(token: re.Match[str], environ: Mapping[str, str]) -> str:
    if token["name"] is None:
        return "$"
    value = _reference(token).value(environ)
    return "" if value is None else value
