"""Our variables in LiteLLM's way, which knows them only as a whole value: `os.environ/NAME`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import SecretStr

from llm_fallback.litellm_config.sections import Listing
from llm_fallback.saving import FreshVariables
from llm_fallback.spec.marks import Path
from llm_fallback.spec.secrecy import is_secret_name
from llm_fallback.spec.variables import Reference, beside, references, resolve


class Texts:
    """The texts of a spec that holds no secret in clear."""

    def __init__(self, fresh: FreshVariables, listing: Listing) -> None:
        self._fresh, self._listing = fresh, listing

    def value(self, value: Any, path: Path) -> Any:
        """Nested data in LiteLLM's way."""
        match value:
            case SecretStr():
                return self.text(value.get_secret_value(), path)
            case str():
                return self.text(value, path)
            case Mapping():
                return {key: self.value(item, (*path, key)) for key, item in value.items()}
            case list() | tuple():
                return [self.value(item, (*path, index)) for index, item in enumerate(value)]
        return value

    def text(self, text: str, path: Path) -> str:
        named = references(text)
        if not named:
            return resolve(text, {})
        if len(named) == 1 and not beside(text):
            return self._whole(named[0], path)
        name = self._fresh.name(path)
        shown = "what stands there" if _is_secret(path) else repr(text)
        self._listing.add(path, f"LiteLLM takes a variable only as a whole value: set {name} to {shown}")
        return f"os.environ/{name}"

    def _whole(self, reference: Reference, path: Path) -> str:
        if reference.default is not None:
            usual = "" if _is_secret(path) else f", usually to {reference.default!r}"
            self._listing.add(path, f"LiteLLM knows no default of a variable: set {reference.name}{usual}")
        return f"os.environ/{reference.name}"


def _is_secret(path: Path) -> bool:
    return any(isinstance(part, str) and is_secret_name(part) for part in path)
