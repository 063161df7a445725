"""Going on with a reply that broke off: what the next deployment is asked, and how the two parts are joined.

What was delivered is never delivered again and never taken back. A deployment that can be handed the beginning of its
own reply (prefill) goes on from it exactly; any other is told to, and what it repeats at the joint is trimmed.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from llm_fallback.exchange import Transcript

INSTRUCTION = (
    "Your reply above was cut off. Go on exactly where it stops, in the middle of a word if need be. "
    "Do not repeat any of it and do not comment on the interruption."
)

_SHORTEST_OVERLAP = 3
"""Characters; a shorter repetition is as likely part of the text as one too many."""

_UNLIKELY_TWICE = 8
"""Characters; no reply that goes on starts with so much of its own beginning again."""


def can_continue(delivered: Transcript) -> bool:
    """Whether another deployment can go on from here: text yes, a tool call that the caller has already no."""
    return not delivered.tool_calls


def continuing(request: Mapping[str, Any], delivered: Transcript, prefill: Mapping[str, Any] | None) -> dict[str, Any]:
    """The request that goes on with what was delivered.

    `prefill` are the parameters by which a deployment takes the beginning of its reply; None if it takes none. A reply
    of which only reasoning was delivered begins anew: another deployment cannot take up a thought.
    """
    if not delivered.text:
        return dict(request)
    begun: dict[str, Any] = {"role": "assistant", "content": delivered.text}
    messages = [*request["messages"], begun]
    if prefill is None:
        return {**request, **_fewer_tokens(request, delivered), "messages": [*messages, _instruction()]}
    begun |= prefill.get("message", {})
    body = {**request.get("extra_body", {}), **prefill.get("extra_body", {})}
    extra = {"extra_body": body} if body else {}
    return {**request, **_fewer_tokens(request, delivered), **extra, "messages": messages}


def _instruction() -> dict[str, str]:
    return {"role": "user", "content": INSTRUCTION}


def _fewer_tokens(request: Mapping[str, Any], delivered: Transcript) -> dict[str, int]:
    """What is left of a limit on the reply's length, at about four characters a token."""
    used = len(delivered.text) // 4
    names = [name for name in ("max_tokens", "max_completion_tokens") if request.get(name) is not None]
    return {name: max(1, request[name] - used) for name in names}


class Joint:
    """Takes the text after a break and lets pass what does not repeat the end of what was delivered.

    Text is held while it may still be a repetition: at most as long as what was delivered.
    """

    def __init__(self, delivered: str, *, exact: bool) -> None:
        self._delivered = delivered
        self._starts = _restart(delivered) if exact else _word_starts(delivered)
        self._held = ""
        self._is_through = not self._starts

    def feed(self, text: str) -> str:
        """The part of the text so far that is new."""
        if self._is_through:
            return text
        self._held += text
        if any(self._delivered.startswith(self._held, start) for start in self._starts):
            return ""
        return self.flush()

    def flush(self) -> str:
        """What is held and is no repetition; nothing will be held from here on."""
        held, self._held = self._held, ""
        self._is_through = True
        return held[self._overlap(held) :]

    def _overlap(self, text: str) -> int:
        """Characters at the start of the text that repeat the end of what was delivered; the longest wins."""
        for start in self._starts:
            tail = self._delivered[start:]
            if text.startswith(tail):
                return len(tail)
            if tail.startswith(text):
                break  # Nothing came but a repetition of some middle; it is not at the joint.
        return 0


def _restart(text: str) -> list[int]:
    """Handed its own beginning a model goes on from it, and looking for repetitions could only lose text; but a server
    that does not know the handing says all of it again."""
    return [0] if len(text) >= _UNLIKELY_TWICE else []


def _word_starts(text: str) -> list[int]:
    """Where an overlap may begin: at the start of the text and of each word long enough from its end."""
    if not text:
        return []
    last = len(text) - _SHORTEST_OVERLAP
    begins = [i for i in range(1, last + 1) if text[i - 1].isspace() != text[i].isspace() or _is_edge(text, i)]
    return [0, *begins]


def _is_edge(text: str, i: int) -> bool:
    return text[i - 1].isalnum() != text[i].isalnum()
