"""Signed thoughts: who signed which, and which of them a deployment gets back.

A model that thinks before it calls a tool wants that thought back with the tool's result, as it said it; the signature
on it holds only with whom it is from. So a reply keeps its signed blocks with who signed each, and of a conversation
every deployment gets its own blocks and no others, whoever answered in between.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import takewhile
from typing import Any

Message = Mapping[str, Any]

BLOCKS = "thinking_blocks"
"""Where the blocks stand in a message, LangChain's `additional_kwargs` included."""
ORIGIN = "origin"
"""Where a block says who signed it, and a message who wrote it."""
SIGNED = "signed_thinking"
"""Where blocks that know their origin stand among the `provider_specific_fields` of what a server said."""


class ThoughtReader:
    """The signed blocks of one reply, which may come in parts: then the last part is signed, and empty or whole."""

    def __init__(self, origin: str) -> None:
        self._origin = origin
        self._parts: list[str] = []

    def read(self, blocks: Iterable[Message], *, lead: bool) -> list[dict[str, str | None]]:
        """Blocks that are whole now, with who signed them. Those that do not `lead`, but follow a text or a tool call,
        have no origin: a message has no place in which to send them back."""
        origin = self._origin if lead else None
        return [{**block, ORIGIN: origin} for part in blocks if (block := self._completed(part)) is not None]

    def _completed(self, part: Message) -> dict[str, str] | None:
        block = _signed(part)
        if block is None:
            if isinstance(part.get("thinking"), str):
                self._parts.append(part["thinking"])
            return None
        if block["type"] == "thinking":
            block["thinking"] = block["thinking"] or "".join(self._parts)
        self._parts.clear()
        return block


def stored_blocks(message: Message) -> Sequence[Any]:
    """What a message carries in the place of blocks, if that is a list; callers of the server write anything there."""
    stored = message.get(BLOCKS)
    return stored if isinstance(stored, list) else ()


def leading(are_thoughts: Iterable[bool]) -> int:
    """How many blocks of a reply are thoughts before the first that is none."""
    return sum(takewhile(bool, are_thoughts))


def with_thoughts_of(messages: Sequence[Message], origin: str | None) -> Sequence[Message]:
    """The messages with the blocks that this origin signed, and with no others; None: with none at all. The same
    sequence where there is nothing to take out."""
    for message in messages:
        if BLOCKS in message or ORIGIN in message:
            return [_with_thoughts_of(each, origin) for each in messages]
    return messages


def lacks_thoughts(messages: Sequence[Message], origin: str) -> bool:
    """Whether a model of this origin that is to think would go on with a turn whose thoughts it cannot get.

    A turn is all since the user last spoke. It begins with a thought; what the same model said further on in it may do
    without one, as most think only once in a turn.
    """
    has_begun = False
    for message in _open_turn(messages):
        if message["role"] != "assistant":
            continue
        if _blocks_of(message, origin):
            has_begun = True
        elif not has_begun or message.get(ORIGIN) != origin:
            return True
    return False


def _with_thoughts_of(message: Message, origin: str | None) -> Message:
    blocks = [] if origin is None else _blocks_of(message, origin)
    rest = {name: value for name, value in message.items() if name not in (BLOCKS, ORIGIN)}
    if not blocks:
        return rest
    # In place of an empty text litellm writes one of its own, and the turn would not be what was signed.
    is_silent = rest.get("tool_calls") and rest.get("content") == ""
    return {**rest, **({"content": None} if is_silent else {}), BLOCKS: blocks}


def _blocks_of(message: Message, origin: str) -> list[dict[str, str]]:
    """The blocks to send back to their origin: all of a message's, or none, as a part of them is not what was said."""
    stored = stored_blocks(message)
    found = [_signed(block) for block in stored if isinstance(block, Mapping) and block.get(ORIGIN) == origin]
    blocks = [block for block in found if block is not None]
    return blocks if len(blocks) == len(stored) else []


def _signed(block: Message) -> dict[str, str] | None:
    """A block with the keys it has in the protocol; None for one that is not signed."""
    if block.get("type") == "redacted_thinking" and _is_text(block.get("data")):
        return {"type": "redacted_thinking", "data": block["data"]}
    if block.get("type") == "thinking" and _is_text(block.get("signature")):
        said = block.get("thinking")
        thinking = said if isinstance(said, str) else ""
        return {"type": "thinking", "thinking": thinking, "signature": block["signature"]}
    return None


def _is_text(value: object) -> bool:
    return isinstance(value, str) and value != ""


def _open_turn(messages: Sequence[Message]) -> Iterator[Message]:
    """What was said since the user last spoke; words beside a tool's result do not begin a turn."""
    start, has_results = 0, False
    for at, message in enumerate(messages):
        role = message["role"]
        if role == "user" and not has_results:
            start = at + 1
        elif role in ("tool", "function", "assistant"):
            has_results = role != "assistant"
    return iter(messages[start:])
