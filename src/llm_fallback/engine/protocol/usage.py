"""What a server counted, in OpenAI's words and ours.

Only the books need it, so what is no count is unknown and no fault: below 0, not whole, more than any model takes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from llm_fallback.events import Usage

_MOST_TOKENS = 10**9
"""Of one reply. A larger figure is an error of the server's, and would be billed."""

_NO_COUNT = (TypeError, ValueError, OverflowError)
_TOTALS = ("prompt_tokens", "completion_tokens", "total_tokens", "cache_creation_input_tokens")
_CACHED = ("cache_read_input_tokens", "prompt_cache_hit_tokens", "cached_tokens")
"""Anthropic's name for input read from the cache, DeepSeek's, and that of Moonshot and Together."""
_WRITTEN = ("cache_creation_tokens", "cache_write_tokens")
"""litellm's name for input written to the cache, and OpenRouter's."""
_COUNTS = tuple(count.name for count in fields(Usage))


def openai_usage(said: object) -> Usage | None:
    """The usage in OpenAI's form; None if the server counted nothing, or something else than tokens.

    Other names for the cache stand beside OpenAI's details or in place of them; all are read. xAI leaves the tokens of
    reasoning out of the completion's, though it bills them.
    """
    if not isinstance(said, Mapping):
        return None
    try:
        prompt, completion, total, written, *read = _counts(said, *_TOTALS, *_CACHED)
        details = said.get("prompt_tokens_details")
        cached, audio_in, *cache_written = _counts(details, "cached_tokens", "audio_tokens", *_WRITTEN)
        reasoning, audio_out = _counts(said.get("completion_tokens_details"), "reasoning_tokens", "audio_tokens")
    except _NO_COUNT:
        return None
    if not (prompt or completion):
        return None
    if reasoning and total == prompt + completion + reasoning:
        completion += reasoning
    return Usage(prompt, completion, cached or max(read), max(cache_written) or written, reasoning, audio_in, audio_out)


def anthropic_usage(said: object) -> Usage | None:
    """The usage in Anthropic's form, of a whole reply or so far; None if it counts nothing, or something else.

    What is read from and written to the cache stands beside the input there, not in it. A reply that took several
    passes over a prompt (`iterations`) is billed for each.
    """
    if not isinstance(said, Mapping):
        return None
    passes = said.get("iterations")
    try:
        counts = [_counts(one, *_ANTHROPIC) for one in (passes if isinstance(passes, list) and passes else [said])]
        (reasoning,) = _counts(said.get("output_tokens_details"), "thinking_tokens")
    except _NO_COUNT:
        return None
    fresh, read, written, output = map(sum, zip(*counts, strict=True))
    if not (fresh or read or written or output):
        return None
    return Usage(fresh + read + written, output, read, written, reasoning)


_ANTHROPIC = ("input_tokens", "cache_read_input_tokens", "cache_creation_input_tokens", "output_tokens")


def gemini_usage(said: object) -> Usage | None:
    """The usage in Gemini's form; None if the server counted nothing, or something else than tokens.

    Thoughts are billed as output and stand beside it, or, as the total tells, are counted in it already.
    """
    if not isinstance(said, Mapping):
        return None
    try:
        prompt, tools, cached = _counts(said, "promptTokenCount", "toolUsePromptTokenCount", "cachedContentTokenCount")
        output, thoughts, total = _counts(said, "candidatesTokenCount", "thoughtsTokenCount", "totalTokenCount")
        audio_in, audio_out = (_sound(said.get(name)) for name in ("promptTokensDetails", "candidatesTokensDetails"))
    except _NO_COUNT:
        return None
    prompt += tools
    if total != prompt + output:
        output += thoughts
    if not (prompt or output):
        return None
    return Usage(prompt, output, cached, 0, thoughts, audio_in, audio_out)


def _sound(said: object) -> int:
    """The tokens of sound, where they are told apart by modality."""
    if said is None:
        return 0
    if not isinstance(said, list):
        raise TypeError
    return sum(
        count(one.get("tokenCount")) for one in said if isinstance(one, Mapping) and one.get("modality") == "AUDIO"
    )


def cohere_usage(said: object) -> Usage | None:
    """The usage in Cohere's form; None if it counts nothing, or something else.

    Of its two accounts `tokens` is what the model read and wrote. `billed_units` leaves out what Cohere adds to a
    prompt, and what was cached may be more than it; costs by `tokens` are too high rather than too low.
    """
    if not isinstance(said, Mapping):
        return None
    try:
        prompt, completion = _counts(said.get("tokens"), "input_tokens", "output_tokens")
        (cached,) = _counts(said, "cached_tokens")
    except _NO_COUNT:
        return None
    return Usage(prompt, completion, cached) if prompt or completion else None


def ollama_usage(said: object) -> Usage | None:
    """The usage in Ollama's form; None if it counts nothing, or something else."""
    try:
        prompt, completion = _counts(said, "prompt_eval_count", "eval_count")
    except _NO_COUNT:
        return None
    return Usage(prompt, completion) if prompt or completion else None


def converse_usage(said: object, of_the_model: object = None) -> Usage | None:
    """The usage in the form of Bedrock's Converse; None if it counts nothing, or something else.

    What is read from and written to the cache stands beside the input there, but for some models in it; the total
    tells. Claude counts its thoughts in `of_the_model`, fields of the model's own, if the request asks for it.
    """
    thoughts = _within(of_the_model, "usage", "output_tokens_details")
    try:
        fresh, output, total, read, written = _counts(said, *_CONVERSE)
        (reasoning,) = _counts(thoughts, "thinking_tokens")
    except _NO_COUNT:
        return None
    cached = read + written
    beside = 0 if total == fresh + output and cached <= fresh else cached
    if not (fresh or cached or output):
        return None
    return Usage(fresh + beside, output, read, written, min(reasoning, output))


_CONVERSE = ("inputTokens", "outputTokens", "totalTokens", "cacheReadInputTokens", "cacheWriteInputTokens")


def _within(said: object, *names: str) -> object:
    """What stands under these names, one within the other; None if nothing does."""
    for name in names:
        said = said.get(name) if isinstance(said, Mapping) else None
    return said


def count(said: object) -> int:
    """A number of tokens, 0 where nothing is said. Raises TypeError, ValueError or OverflowError for what is none."""
    if said is None:
        return 0
    # Some JSON writers make floats or texts of whole numbers.
    number = said if type(said) is int else int(said)  # type: ignore[call-overload]
    if not 0 <= number <= _MOST_TOKENS or number != float(said):  # type: ignore[arg-type]
        raise ValueError(f"{said!r} is no number of tokens")
    return int(number)


def _counts(said: object, *names: str) -> list[int]:
    if said is None:
        return [0] * len(names)
    if not isinstance(said, Mapping):
        raise TypeError
    counts = []
    for name in names:
        number = said.get(name)
        counts.append(number if type(number) is int and 0 <= number <= _MOST_TOKENS else count(number) if number else 0)
    return counts


def fuller(first: Usage | None, second: Usage | None) -> Usage | None:
    """What two accounts of one reply say together: a sum so far grows, and details may stand in either."""
    if first is None or second is None:
        return first or second
    return Usage(*(max(getattr(first, name), getattr(second, name)) for name in _COUNTS))


def usage_document(usage: Usage) -> dict[str, Any]:
    """Usage in OpenAI's form, as LangChain's integration adds it up."""
    document: dict[str, Any] = {
        "prompt_tokens": usage.input_tokens,
        "completion_tokens": usage.output_tokens,
        "total_tokens": usage.input_tokens + usage.output_tokens,
    }
    details = (
        ("prompt_tokens_details", "cached_tokens", usage.cached_tokens),
        ("prompt_tokens_details", "cache_creation_tokens", usage.cache_write_tokens),
        ("prompt_tokens_details", "audio_tokens", usage.audio_input_tokens),
        ("completion_tokens_details", "reasoning_tokens", usage.reasoning_tokens),
        ("completion_tokens_details", "audio_tokens", usage.audio_output_tokens),
    )
    for group, name, number in details:
        if number:
            document.setdefault(group, {})[name] = number
    return document
