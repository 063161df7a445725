"""How many tokens a text has, about: for limits, estimates and what nobody counted, not for bills."""

from __future__ import annotations

_CHARACTERS_PER_TOKEN = 4


def estimate_tokens(characters: int) -> int:
    """Tokens of a text of that many characters: English has about four a token, and any text has one."""
    return -(-characters // _CHARACTERS_PER_TOKEN)
