"""What is secret in a spec, and what of it may be shown."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from pydantic import SecretStr

from llm_fallback.spec.marks import Path
from llm_fallback.spec.variables import references

_ENDINGS = ("key", "token", "secret", "password", "credentials", "authorization")
_LIKE_A_KEY = re.compile(r"(?i)^(bearer |basic )|^[a-z]{2,6}[-_](?=.*\d)[\w-]{12,}$|^AIza|://[^/]*@")
_LONGEST_SHOWN = 60


def is_secret_name(name: str) -> bool:
    """Whether a value under this key is a secret: `api_key`, `X-Auth-Token`, `vertex_credentials`."""
    return name.lower().endswith(_ENDINGS)


def veiled(value: Any, secret: bool = False) -> Any:
    """Data with `SecretStr` for each text or number under a secret key, and each text with a variable."""
    match value:
        case str():
            return SecretStr(value) if secret or references(value) else value
        case bool():
            return value
        case int() | float():
            return SecretStr(str(value)) if secret else value
        case Mapping():
            return {key: veiled(item, secret or is_secret_name(key)) for key, item in value.items()}
        case list() | tuple():
            return [veiled(item, secret) for item in value]
    return value


def shown(value: Any, path: Path) -> str | None:
    """A value in the words of a mistake; None where it is, or could be, a secret."""
    match value:
        case None:
            return "null"
        case bool():
            return "true" if value else "false"
        case Mapping():
            return "a mapping"
        case list() | tuple():
            return "a list"
    if any(isinstance(part, str) and is_secret_name(part) for part in path):
        return None
    if isinstance(value, str):
        return _shown_text(value)
    return str(value) if isinstance(value, int | float) else f"a {type(value).__name__}"


def _shown_text(text: str) -> str | None:
    if len(text) > _LONGEST_SHOWN or _LIKE_A_KEY.search(text):
        return None
    return repr(text)
