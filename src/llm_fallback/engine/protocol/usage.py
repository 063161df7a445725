"""What a server counted, in OpenAI's words and ours.

Only the books need it, so what is no count is unknown and no fault: below 0, not whole, more than any model takes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import fields
from functools import wraps
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


_Account = Callable[[Mapping[str, Any]], Usage]


def _known(read: _Account) -> Callable[[object], Usage | None]:
    """Make an account of tokens None where the server counted nothing, or something else than tokens."""

    @wraps(read)
    def known(document: object) -> Usage | None:
        if not isinstance(document, dict):
            return None
        try:
            usage = read(document)
        except _NO_COUNT:
            return None
        return usage if usage.input_tokens or usage.output_tokens else None

    return known


@_known
def openai_usage(usage: Mapping[str, Any]) -> Usage:
    """The usage in OpenAI's form.

    Other names for the cache stand beside OpenAI's details or in place of them; all are read. xAI leaves the tokens of
    reasoning out of the completion's, though it bills them.
    """
    prompt, completion, total, written, *read = _counts(usage, *_TOTALS, *_CACHED)
    details = usage.get("prompt_tokens_details")
    cached, audio_in, *cache_written = _counts(details, "cached_tokens", "audio_tokens", *_WRITTEN)
    reasoning, audio_out = _counts(usage.get("completion_tokens_details"), "reasoning_tokens", "audio_tokens")
    if reasoning and total == prompt + completion + reasoning:
        completion += reasoning
    return Usage(prompt, completion, cached or max(read), max(cache_written) or written, reasoning, audio_in, audio_out)


@_known
def anthropic_usage(usage: Mapping[str, Any]) -> Usage:
    """The usage in Anthropic's form, of a whole reply or so far.

    What is read from and written to the cache stands beside the input there, not in it. A reply that took several
    passes over a prompt (`iterations`) is billed for each.
    """
    passes = usage.get("iterations")
    counts = [_counts(one, *_ANTHROPIC) for one in (passes if isinstance(passes, list) and passes else [usage])]
    (reasoning,) = _counts(usage.get("output_tokens_details"), "thinking_tokens")
    fresh, read, written, output = map(sum, zip(*counts, strict=True))
    return Usage(fresh + read + written, output, read, written, reasoning)


_ANTHROPIC = ("input_tokens", "cache_read_input_tokens", "cache_creation_input_tokens", "output_tokens")


@_known
def gemini_usage(usage: Mapping[str, Any]) -> Usage:
    """The usage in Gemini's form.

    Thoughts are billed as output and stand beside it, or, as the total tells, are counted in it already.
    """
    prompt, tools, cached = _counts(usage, "promptTokenCount", "toolUsePromptTokenCount", "cachedContentTokenCount")
    output, thoughts, total = _counts(usage, "candidatesTokenCount", "thoughtsTokenCount", "totalTokenCount")
    audio_in, audio_out = (
        _audio_tokens(usage.get(name)) for name in ("promptTokensDetails", "candidatesTokensDetails")
    )
    prompt += tools
    if total != prompt + output:
        output += thoughts
    return Usage(prompt, output, cached, 0, thoughts, audio_in, audio_out)


def _audio_tokens(details: object) -> int:
    """The tokens of sound, where they are told apart by modality."""
    if details is None:
        return 0
    if not isinstance(details, list):
        raise TypeError
    told = [one for one in details if isinstance(one, dict) and one.get("modality") == "AUDIO"]
    return sum(tokens for one in told for tokens in _counts(one, "tokenCount"))


@_known
def cohere_usage(usage: Mapping[str, Any]) -> Usage:
    """The usage in Cohere's form.

    Of its two accounts `tokens` is what the model read and wrote. `billed_units` leaves out what Cohere adds to a
    prompt, and what was cached may be more than it; costs by `tokens` are too high rather than too low.
    """
    prompt, completion = _counts(usage.get("tokens"), "input_tokens", "output_tokens")
    (cached,) = _counts(usage, "cached_tokens")
    return Usage(prompt, completion, cached)


@_known
def ollama_usage(document: Mapping[str, Any]) -> Usage:
    """The usage that stands in the last document of Ollama's own chat."""
    return Usage(*_counts(document, "prompt_eval_count", "eval_count"))


@_known
def converse_usage(document: Mapping[str, Any]) -> Usage:
    """The usage in the form of Bedrock's Converse, with fields of the model's own beside it.

    What is read from and written to the cache stands beside the input there, but for some models in it; the total
    tells. Claude counts its thoughts in the model's own fields, if the request asks for it.
    """
    thoughts = _within(document, "additionalModelResponseFields", "usage", "output_tokens_details")
    fresh, output, total, read, written = _counts(document.get("usage"), *_CONVERSE)
    (reasoning,) = _counts(thoughts, "thinking_tokens")
    cached = read + written
    beside = 0 if total == fresh + output and cached <= fresh else cached
    return Usage(fresh + beside, output, read, written, min(reasoning, output))


_CONVERSE = ("inputTokens", "outputTokens", "totalTokens", "cacheReadInputTokens", "cacheWriteInputTokens")


def _within(value: object, *names: str) -> object:
    """What stands under these names, one within the other; None if nothing does."""
    for name in names:
        value = value.get(name) if isinstance(value, Mapping) else None
    return value


def _count(value: Any) -> int:
    """A number of tokens; some JSON writers make floats or texts of whole numbers. Raises TypeError, ValueError or
    OverflowError for what is none."""
    number = int(value)
    if not 0 <= number <= _MOST_TOKENS or number != float(value):
        raise ValueError
    return number


def _counts(group: object, *names: str) -> list[int]:
    """The numbers under these names, 0 where there is none."""
    if group is None:
        return [0] * len(names)
    if not isinstance(group, dict):
        raise TypeError
    counts: list[int] = []
    for name in names:
        number: Any = group.get(name)
        # Nearly every number is a whole one, of which a function call each would tell nothing new.
        is_plain = type(number) is int and 0 <= number <= _MOST_TOKENS
        counts.append(number if is_plain else _count(number) if number else 0)
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
