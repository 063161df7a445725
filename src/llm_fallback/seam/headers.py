"""Headers a deployment asks for itself, which go out in place of whatever anybody else would send by those names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from llm_fallback.scrub import revealed

_WORDS = ("headers", "extra_headers")
"""litellm's words for them; of two that name the same header it takes the second."""


def own_headers(parameters: Mapping[str, Any]) -> dict[str, str]:
    """What a deployment's parameters say, in clear. YAML reads numbers where texts are meant, and HTTP libraries send
    none; null is no text."""
    given = [parameters[word] for word in _WORDS if isinstance(parameters.get(word), Mapping)]
    return {str(name): str(text) for said in given for name, text in revealed(said).items() if text is not None}


def replaced(headers: Mapping[str, str], own: Mapping[str, str]) -> dict[str, str]:
    """Headers, with a deployment's own in place of those of the same name: in HTTP its case makes no difference, and a
    key sent beside the login that was to replace it has gone to somebody it was not meant for."""
    names = {name.lower() for name in own}
    return {**{name: text for name, text in headers.items() if name.lower() not in names}, **own}


def has_login(parameters: Mapping[str, Any]) -> bool:
    """Whether a deployment has an authorization of its own."""
    if {*_WORDS}.isdisjoint(parameters):
        return False
    return any(name.lower() == "authorization" for name in own_headers(parameters))
