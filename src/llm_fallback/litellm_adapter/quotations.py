"""What litellm quotes of a request when it cannot translate it: prompts do not belong into errors, logs and traces."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from llm_fallback.engine.protocol.faults import MOST_CLEANED, MOST_SEARCHED
from llm_fallback.litellm_adapter.media import texts_in

_LEFT_OUT = "…"
_LONGEST = MOST_CLEANED
"""Characters of an error that are looked at; litellm quotes whole conversations."""
_LEAST_QUOTED = 8
"""Characters. Shorter texts stand in any error."""
_RECOGNISED = 24
"""Characters from its beginning by which a text is found, though it may be quoted in part."""


def without_quotations(text: str, messages: Sequence[Mapping[str, Any]]) -> str:
    """An error's text without the documents it quotes, and without the texts, links and data of the messages."""
    is_long = len(text) > _LONGEST
    text = text[:_LONGEST]
    texts = (held for message in messages for held in texts_in(message))
    quotable = {held[:_LONGEST] for held in texts if len(held) >= _LEAST_QUOTED and not held.isspace()}
    quoted = sorted(quotable, key=len, reverse=True)
    for held in quoted:
        for spelling in dict.fromkeys((held, repr(held)[1:-1], json.dumps(held)[1:-1])):
            text = _without(text, spelling)
    text = _without_documents(text)
    # Of a secret across the cut a part would be left, which nobody knows for one.
    return text[:-MOST_SEARCHED] + _LEFT_OUT if is_long else text


_DOCUMENT = re.compile(r"""[\[({]*\{['"]""")
"""The beginning of a mapping, or of a list of them, as Python or JSON write it."""
_BRACKETS = {"{": 1, "[": 1, "(": 1, "}": -1, "]": -1, ")": -1}


def _without_documents(text: str) -> str:
    told, at = [], 0
    while (begun := _DOCUMENT.search(text, at)) is not None:
        told += [text[at : begun.start()], _LEFT_OUT]
        at = _end_of_document(text, begun.start())
    return "".join([*told, text[at:]])


def _end_of_document(text: str, start: int) -> int:
    """Where it ends; the end of the text where it is cut, or written otherwise."""
    depth, quote, at = 0, "", start
    while at < len(text):
        character = text[at]
        if quote:
            at += character == "\\"
            quote = "" if character == quote else quote
        elif character in "'\"":
            quote = character
        else:
            depth += _BRACKETS.get(character, 0)
            if depth == 0:
                return at + 1
        at += 1
    return len(text)


def _without(text: str, held: str) -> str:
    start = held[:_RECOGNISED]
    while (at := text.find(start)) >= 0:
        end = at + len(start)
        while end < len(text) and end - at < len(held) and text[end] == held[end - at]:
            end += 1
        text = text[:at] + _LEFT_OUT + text[end:]
    return text
