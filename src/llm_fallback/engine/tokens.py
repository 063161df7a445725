"""How many tokens a text has, about: for limits, estimates and what nobody counted, not for bills."""

from __future__ import annotations

import math
from typing import Any

_CHARACTERS_PER_TOKEN = 4
"""English has about four to a token."""


def estimate_prompt_tokens(characters: int) -> int:
    """Whole tokens in a prompt, or in a part of one, of that many characters."""
    return characters // _CHARACTERS_PER_TOKEN


def made_up_token_ids(text: str) -> list[int]:
    """An id for about each token of a text, where no tokenizer is: the same for the same characters."""
    parts = (text[start : start + _CHARACTERS_PER_TOKEN] for start in range(0, len(text), _CHARACTERS_PER_TOKEN))
    return [int.from_bytes(part.encode(errors="replace")) for part in parts]


_MOST = 10**12
"""More than any server gives, and little enough to be paid with."""


def read_limit(value: Any) -> int | None:
    """The whole number that a caller wrote in a request, as servers read it; None where it is none, which is theirs to
    say, and below 0, by which llama.cpp means no limit. Beyond a million millions it is that."""
    try:
        number = int(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return min(number, _MOST) if number >= 0 else None


def read_choices(value: Any) -> int:
    """How many replies a request asks for by what a caller wrote as `n`: one where that is nothing."""
    return read_limit(value) or 1


def estimate_reply_tokens(characters: int) -> int:
    """Tokens a reply of that many characters took: one that says anything took at least one."""
    return math.ceil(characters / _CHARACTERS_PER_TOKEN)
