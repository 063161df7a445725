"""The reading of what litellm makes of a reply, where only litellm reads it or somebody there may change it.

Its documents are in OpenAI's form, and read like a server's. What they leave out or make up, a finish and usage, is
told by the server's own response where that can be read, too.
"""

from __future__ import annotations

from typing import Any

from llm_fallback.engine.protocol.faults import FaultCleaner
from llm_fallback.engine.protocol.finishes import read_finish
from llm_fallback.engine.transport import FINISHES, REFUSED_FINISH, Chunk, Fault, Provenance, Reply, StreamEnd
from llm_fallback.litellm_adapter.protocols import OPENAI_CHAT
from llm_fallback.litellm_adapter.wire_tap import WireTap
from llm_fallback.plan.plan import Target


class LiteLLMReading:
    """What comes of litellm's answer. Its methods let through what litellm raises."""

    def __init__(self, answer: Any, target: Target, wire: WireTap, clean: FaultCleaner) -> None:
        """`answer` is litellm's: a reply, or a stream of its chunks."""
        self.answer, self._wire, self._clean = answer, wire, clean
        self._reader = OPENAI_CHAT.reader_for(target)
        self._refused = self._usage_told = False
        self.is_over = False
        """Whether litellm's stream ended, or failed."""

    @property
    def content_came(self) -> bool:
        """Whether something of the reply came, so that a fault is a stream that broke."""
        return self._reader.content_came

    def provenance(self, request_id: str | None) -> Provenance:
        """As far as litellm tells it."""
        return Provenance(request_id, self._reader.reply_id, self._reader.system_fingerprint)

    def reply(self, said: Reply | None) -> Reply | Fault:
        """The whole reply; `said` is what the server itself sent, if that was read."""
        document = self.answer.model_dump()
        if said is not None:
            _tell_what_the_server_said(document, said)
            return self._reader.read_reply(document)
        for choice in document["choices"]:
            # litellm has a finish for every word and for none, and keeps the server's own beside it.
            native = (choice.get("provider_specific_fields") or {}).get("native_finish_reason")
            choice["finish_reason"] = native or choice.get("finish_reason")
        return self._reader.read_reply(document)

    async def next(self) -> Chunk | StreamEnd | Fault | None:
        """The next chunk, or the end; None where nothing of the reply stands in litellm's chunk, or there is none."""
        if self.is_over:
            return self._end()
        self.is_over = True
        heard = await anext(self.answer, None)
        if heard is None:
            return None
        self.is_over, document = False, heard.model_dump()
        for choice in document["choices"]:
            if choice.get("finish_reason") == REFUSED_FINISH:
                # litellm makes this of many words, and never of none; of Gemini's it does not tell that it received it.
                self._refused = True
            if self._finish() not in FINISHES:
                choice["finish_reason"] = None  # It is litellm's invention.
        return self._reader.read_event(document)

    def _end(self) -> Chunk | StreamEnd | Fault:
        if self._wire.is_readable:
            # Where the server did not count, litellm counts, and would have us bill what nobody did.
            end = self._wire.end()
            return self._clean(end) if isinstance(end, Fault) else end
        usage = None if self._usage_told else self._reader.usage_chunk()
        self._usage_told = True
        return usage or StreamEnd(self._finish())

    def _finish(self) -> str | None:
        """The finish reason the server itself gave."""
        if self._wire.is_readable:
            return self._wire.reader.finish
        if self._refused:
            return REFUSED_FINISH
        return read_finish(getattr(self.answer, "received_finish_reason", None), self._reader.finish_words)


def _tell_what_the_server_said(document: dict[str, Any], said: Reply) -> None:
    """Put the server's finish and usage in place of what litellm makes of them, or up."""
    for choice, own in zip(document["choices"], said.raw["choices"], strict=False):
        choice["finish_reason"] = own["finish_reason"]
    document["choices"][0]["finish_reason"] = said.finish
    document["usage"] = said.raw["usage"]
