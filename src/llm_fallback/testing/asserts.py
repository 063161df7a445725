"""Assertions about the attempts of a call."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, get_args

from llm_fallback.events import Attempt, AttemptMetadata, Failure, Skip, SkipMetadata

_WORDS = ("succeeded", *get_args(Failure))


class AnsweredMessage(Protocol):
    """A message of LangChain."""

    response_metadata: dict[str, Any]


def assert_attempts(outcome: AnsweredMessage | BaseException, *expected: str) -> None:
    """Assert which deployments were asked, in order, and how each attempt ended.

    `outcome` is a reply, the last chunk of a stream, or an error with attempts such as `ChainExhausted`. An
    attempt reads `"primary: rate_limited"`, `"backup: succeeded"` or `"slow: cancelled"`. The AssertionError
    shows all attempts of the call. ValueError for an expectation that no call can meet.
    """
    for line in expected:
        _check(line)
    attempts, skipped = _attempts(outcome)
    actual = [_ending(attempt) for attempt in attempts]
    if actual != list(expected):
        raise AssertionError(_comparison(expected, attempts, skipped))


def _check(line: str) -> None:
    deployment, colon, word = line.partition(": ")
    if not (deployment and colon):
        raise ValueError(f"{line!r} is no attempt; write it as in 'primary: rate_limited' or 'backup: succeeded'")
    if word not in _WORDS:
        from llm_fallback.errors import did_you_mean  # It loads LangChain, which a test that passes may not need.

        hint = did_you_mean(word, _WORDS, f"there are {', '.join(_WORDS)}")
        raise ValueError(f"{line!r}: no attempt ends with {word!r}; {hint}")


def _attempts(outcome: AnsweredMessage | BaseException) -> tuple[list[AttemptMetadata], list[SkipMetadata]]:
    if isinstance(outcome, BaseException):
        return _attempts_of_error(outcome)
    record = outcome.response_metadata.get("llm_fallback")
    if not isinstance(record, Mapping):
        raise AssertionError(
            "the message has no response_metadata['llm_fallback']: it comes from another model, or is a "
            "chunk that is not the last of its stream"
        )
    return list(record["attempts"]), list(record["skipped"])


def _attempts_of_error(error: BaseException) -> tuple[list[AttemptMetadata], list[SkipMetadata]]:
    facts = vars(error)
    if "attempts" not in facts:
        raise AssertionError(f"the error knows of no attempts: {error!r}") from error
    attempts: Sequence[Attempt] = facts["attempts"]
    skipped: Sequence[Skip] = facts.get("skipped", ())
    return [attempt.as_metadata() for attempt in attempts], [skip.as_metadata() for skip in skipped]


def _ending(attempt: AttemptMetadata) -> str:
    failed = attempt["outcome"] == "failed"
    return f"{attempt['deployment']}: {attempt['failure'] if failed else attempt['outcome']}"


def _comparison(expected: Sequence[str], attempts: Sequence[AttemptMetadata], skipped: Sequence[SkipMetadata]) -> str:
    lines = [
        "the call went another way",
        "expected:",
        *(f"  {line}" for line in expected or ["(no attempt)"]),
    ]
    lines += ["was:", *(f"  {_described(attempt)}" for attempt in attempts)]
    lines += [] if attempts else ["  (no attempt)"]
    lines += [f"  {skip['deployment']}: skipped, {skip['reason']}" for skip in skipped]
    return "\n".join(lines)


def _described(attempt: AttemptMetadata) -> str:
    status = f" ({attempt['status']})" if attempt["outcome"] == "failed" and attempt["status"] else ""
    text = f"{_ending(attempt)}{status} after {attempt['latency_s']:.2f} s"
    return f"{text}: {attempt['message']}" if attempt["message"] else text
