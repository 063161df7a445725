"""The words by which servers say how a reply ended, in OpenAI's spelling.

Only a word that its maker documents as an end is one. Others (`network_error`, `MALFORMED_FUNCTION_CALL`, one nobody
knows) mean that the server stopped in the middle: passed off as an end, half a reply would be taken for a whole one.
"""

from __future__ import annotations

from collections.abc import Mapping

from llm_fallback.engine.protocol.values import complete
from llm_fallback.engine.transport import FULL_WINDOW, REFUSED_FINISH

_DOCUMENTED: Mapping[str, tuple[str, ...]] = {
    "stop": (
        "stop",
        *("end_turn", "stop_sequence"),  # Anthropic, Bedrock
        "complete",  # Cohere
        *("eos", "eos_token"),  # Together, text-generation-inference, watsonx
    ),
    "length": (
        "length",
        *("max_tokens", "pause_turn", "compaction"),  # Anthropic, Bedrock, Cohere, Gemini
        "model_length",  # Mistral
        "token_limit",  # watsonx
        "max_output_tokens",  # OpenAI's Responses
    ),
    "tool_calls": ("tool_calls", "function_call", "tool_use", "tool_call"),
    REFUSED_FINISH: (
        "content_filter",
        "refusal",  # Anthropic
        *("guardrail_intervened", "content_filtered"),  # Bedrock
        "error_toxic",  # Cohere
        "sensitive",  # Z.AI
        *("safety", "recitation", "language", "blocklist", "prohibited_content", "spii", "escalation"),  # Gemini
        *("image_safety", "image_prohibited_content", "image_recitation", "no_image", "image_other"),
        "model_armor",  # Vertex
    ),
    FULL_WINDOW: ("model_context_window_exceeded",),  # Anthropic, Z.AI
}
_SPELLING = {word: finish for finish, words in _DOCUMENTED.items() for word in words}


_LONGEST_WORD = 80
"""Characters. Of a longer text only the length is told: cut, it might show a part of a key that it echoes."""


def read_finish(word: object, own_words: Mapping[str, str] = _SPELLING) -> str | None:
    """A server's word in OpenAI's spelling; None where it gave none; one that is no end as the server wrote it.

    `own_words` are what a deployment's spec says beside what is known here.
    """
    if word is None or word == "":
        return None
    text = str(word)
    if len(text) > _LONGEST_WORD:
        return f"of {len(text)} characters"
    return own_words.get(text) or _SPELLING.get(text.lower()) or complete(text)


def openai_finish(finish: str | None) -> str | None:
    """The word OpenAI's clients know, LangChain among them, for one that only we tell apart."""
    return "length" if finish == FULL_WINDOW else finish
