"""Going on with a reply that broke off: what the next deployment is asked, and how the two texts are joined.

What was delivered is never delivered again and never taken back. A deployment that can be handed the beginning of its
own reply (prefill) goes on from it exactly; any other is told to, and what it repeats of the end is trimmed.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from llm_fallback.engine.tokens import estimate_prompt_tokens, read_limit
from llm_fallback.engine.transport import PartialReply

INSTRUCTION = (
    "Your reply above was cut off. Go on exactly where it stops, in the middle of a word if need be. "
    "Do not repeat any of it and do not comment on the interruption."
)

_SHORTEST_OVERLAP = 3
"""Characters; a shorter repetition is as likely part of the text as one too many."""

_UNLIKELY_TWICE = 8
"""Characters; no reply that goes on starts with so much of its own beginning again."""


def can_continue(delivered: PartialReply) -> bool:
    """Whether another deployment can go on from here: text yes, a tool call that the caller has already no."""
    return not delivered.tool_calls


def continuation_request(
    request: Mapping[str, Any], delivered: str, prefill: Mapping[str, Any] | None
) -> dict[str, Any]:
    """The request that goes on after the text that was delivered.

    `prefill` are the parameters by which a deployment takes the beginning of its reply; None if it takes none. A reply
    of which only reasoning was delivered begins anew: another deployment cannot take up a thought.
    """
    if not delivered:
        return dict(request)
    begun: dict[str, Any] = {"role": "assistant", "content": delivered}
    messages = [*request["messages"], begun]
    fewer_tokens = _fewer_tokens(request, estimate_prompt_tokens(len(delivered)))
    if prefill is None:
        instruction = {"role": "user", "content": INSTRUCTION}
        return {**request, **fewer_tokens, "messages": [*messages, instruction]}
    begun |= prefill.get("message", {})
    body = {**request.get("extra_body", {}), **prefill.get("extra_body", {})}
    extra = {"extra_body": body} if body else {}
    return {**request, **fewer_tokens, **extra, "messages": messages}


def _fewer_tokens(request: Mapping[str, Any], used: int) -> dict[str, int]:
    """What is left of a limit on the reply's length."""
    limits = {name: read_limit(request.get(name)) for name in ("max_tokens", "max_completion_tokens")}
    return {name: max(1, limit - used) for name, limit in limits.items() if limit is not None}


class OverlapTrimmer:
    """Takes the text after a break and lets pass what does not repeat the end of what was delivered.

    Text is held while it may still be a repetition: at most as long as what was delivered.
    """

    def __init__(self, delivered: str, *, exact: bool) -> None:
        self._delivered = delivered
        self._starts = _restart(delivered) if exact else _overlap_starts(delivered)
        """Where an overlap may begin."""
        self._matching = self._starts
        """Those of them from which the text so far goes along with what was delivered."""
        self._held: list[str] = []
        self._held_length = 0
        self._passes_all = not self._starts

    def feed(self, text: str) -> str:
        """The part of the text so far that is new."""
        if self._passes_all:
            return text
        known = self._held_length
        self._held.append(text)
        self._held_length += len(text)
        self._matching = [start for start in self._matching if self._delivered.startswith(text, start + known)]
        return "" if self._matching else self.flush()

    def flush(self) -> str:
        """What is held and is no repetition; nothing will be held from here on."""
        held = "".join(self._held)
        self._held.clear()
        self._passes_all = True
        return held[self._overlap(held) :]

    def _overlap(self, text: str) -> int:
        """Characters at the start of the text that repeat the end of what was delivered; the longest wins."""
        for start in self._starts:
            tail = self._delivered[start:]
            if text.startswith(tail):
                return len(tail)
            if tail.startswith(text):
                # Nothing came but a repetition that ends before the end of what was delivered. From the beginning on
                # it is one, by a server that began anew and was cut short; from some middle on the text may be new.
                return len(text) if start == 0 and len(text) >= _UNLIKELY_TWICE else 0
        return 0


def _restart(text: str) -> list[int]:
    """Handed its own beginning a model goes on from it, and looking for repetitions could only lose text; but a server
    that does not know the handing says all of it again."""
    return [0] if len(text) >= _UNLIKELY_TWICE else []


def _overlap_starts(text: str) -> list[int]:
    """Where an overlap may begin: at the start of the text and of each word long enough from its end."""
    if not text:
        return []
    last = len(text) - _SHORTEST_OVERLAP
    begins = [i for i in range(1, last + 1) if text[i - 1].isspace() != text[i].isspace() or _is_edge(text, i)]
    return [0, *begins]


def _is_edge(text: str, i: int) -> bool:
    return text[i - 1].isalnum() != text[i].isalnum()
