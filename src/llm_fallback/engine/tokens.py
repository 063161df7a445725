"""How many tokens a text has, about: for limits, estimates and what nobody counted, not for bills."""

from __future__ import annotations

import math

_CHARACTERS_PER_TOKEN = 4
"""English has about four to a token."""


def estimate_prompt_tokens(characters: int) -> int:
    """Whole tokens in a prompt, or in a part of one, of that many characters."""
    return characters // _CHARACTERS_PER_TOKEN


def made_up_token_ids(text: str) -> list[int]:
    """An id for about each token of a text, where no tokenizer is: the same for the same characters."""
    parts = (text[start : start + _CHARACTERS_PER_TOKEN] for start in range(0, len(text), _CHARACTERS_PER_TOKEN))
    return [int.from_bytes(part.encode(errors="replace")) for part in parts]


def estimate_reply_tokens(characters: int) -> int:
    """Tokens a reply of that many characters took: one that says anything took at least one."""
    return math.ceil(characters / _CHARACTERS_PER_TOKEN)
