"""Everything this library raises on purpose.

    LLMFallbackError
    ├── SpecError (ValueError)            a spec, override or request parameter is wrong; all mistakes at once
    ├── ChainExhausted (+ ModelError)     every deployment that could be asked failed
    ├── StreamBroken (+ ModelError)       a stream ended early after part of it was delivered
    ├── BudgetExceeded                    the next attempt would cost more than is allowed
    └── BatchRefused (ValueError)         a file cannot be answered, or not into that target; nothing was sent

`ChainExhausted` and `StreamBroken` are also instances of one of LangChain's own error classes
(`langchain_core.exceptions`), so code written against those keeps working. There is a class for each pair; all of them
bear the name of ours, which is the one to read in a traceback, to look up and to catch. All of them pickle.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from itertools import islice
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from langchain_core import exceptions as langchain

if TYPE_CHECKING:
    from langchain_core.messages import AIMessage

    from llm_fallback.events import Attempt, Failure, Skip


class LLMFallbackError(Exception):
    """Base class of every error raised by llm_fallback."""


@dataclass(frozen=True, slots=True)
class Location:
    """A file and a 1-based line; either is None where it is not known."""

    file: str | None = None
    line: int | None = None

    def __str__(self) -> str:
        """`spec.yaml:7`; empty where nothing is known."""
        return ":".join(str(part) for part in (self.file, self.line) if part is not None)

    def with_path(self, path: str) -> str:
        """`spec.yaml:7 chains.main`, without what is not known."""
        return " ".join(part for part in (str(self), path) if part)


@dataclass(frozen=True, slots=True)
class Mistake:
    """One thing wrong with a spec: where, what, and what to write instead."""

    path: str
    """Dotted path in the spec, as in `chains.assistant.tiers[1]`; empty for the file as a whole."""
    problem: str
    remedy: str | None = None
    file: str | None = None
    line: int | None = None
    """1-based; None where lines are not known (TOML, Python mappings)."""

    def __str__(self) -> str:
        head = Location(self.file, self.line).with_path(self.path)
        text = f"{head}: {self.problem}" if head else self.problem
        return f"{text}; {self.remedy}" if self.remedy else text


class Repeated(Mistake):
    """A key that stands twice in one mapping. Of the two, the last is in the data."""

    __slots__ = ()


class SpecError(LLMFallbackError, ValueError):
    """A spec, a build override or a request parameter is wrong. Carries every mistake, not only the first."""

    def __init__(
        self, mistakes: Sequence[Mistake], place: Literal["spec", "arguments", "environment"] = "spec"
    ) -> None:
        self.mistakes = tuple(mistakes)
        self.place = place
        """Where they are: in the spec, in the arguments of what was called, or in the process's environment."""
        head = f"{counted(len(self.mistakes), 'mistake')} in the {place}"
        super().__init__("\n".join([f"{head}:", *(f"  {mistake}" for mistake in self.mistakes)]))

    def __reduce__(self) -> tuple[Callable[..., SpecError], tuple[Any, ...]]:
        return type(self), (self.mistakes, self.place)


def counted(number: int, noun: str) -> str:
    """`1 call`, `2 calls`."""
    return f"{number} {noun}" if number == 1 else f"{number:,} {noun}s"


def did_you_mean(word: object, known: Iterable[str], otherwise: str = "", *, likeness: float = 0.6) -> str:
    """`did you mean 'primary'?` for the word of `known` that comes nearest; `otherwise` if none has the `likeness`, of
    0 to 1."""
    nearest = get_close_matches(str(word), list(known), 1, likeness)
    return f"did you mean {nearest[0]!r}?" if nearest else otherwise


def unknown_chain(name: object, chains: Mapping[str, object], word: str = "chain") -> tuple[str, str | None]:
    """Problem and remedy where a chain is named that a spec does not have; at most twelve that it has are listed.
    `word`: what it was named by."""
    known = ", ".join(map(repr, islice(chains, 12)))
    meaning = ", and `model` names a chain here" if word == "model" else ""
    remedy = did_you_mean(name, chains, f"there are {known}" if known else "")
    return f"no chain is called {name!r}{meaning}", remedy or None


_Kind = TypeVar("_Kind", bound=type[LLMFallbackError])
_KINDS: dict[tuple[type, ...], Any] = {}
"""The classes that are LangChain's as well, by their bases."""


def _named_after_ours(kind: _Kind) -> _Kind:
    """Give a class that is also one of LangChain's the name of ours."""
    kind.__name__ = kind.__qualname__ = kind.__bases__[0].__name__
    _KINDS[kind.__bases__] = kind
    return kind


def _restored(bases: tuple[type, ...], *arguments: Any) -> Any:
    """A pickled error of one of those classes, which pickle cannot find by their name."""
    return _KINDS.get(bases, bases[0])(*arguments)


def _bases_of(kind: type) -> tuple[type, ...]:
    return kind.__bases__ if kind.__bases__ in _KINDS else (kind,)


class ChainExhausted(LLMFallbackError):
    """No deployment of the chain gave an answer.

    The text has a line for each attempt and each deployment passed over. `__cause__` is the last upstream
    exception, cleaned of secrets.
    """

    is_retryable = False
    """False: the chain has retried already; a retry from outside would multiply its requests."""

    def __init__(
        self,
        chain: str,
        failure: Failure,
        attempts: Sequence[Attempt],
        skipped: Sequence[Skip],
        reason: str = "",
        last_reply: AIMessage | None = None,
    ) -> None:
        self.chain = chain
        self.failure = failure
        self.attempts = tuple(attempts)
        self.skipped = tuple(skipped)
        self.reason = reason
        self.last_reply = last_reply
        """The last reply that was not of the form asked for; None where there is none, or no form was."""
        head = f"chain {chain!r} has no answer" + (f": {reason}" if reason else "")
        lines = [f"  {fact}" for fact in (*self.attempts, *self.skipped)]
        text = "\n".join([head, *lines])
        super().__init__(text)
        self.args = (text,)  # LangChain's error of a parser adds a link to it.

    def __reduce__(self) -> tuple[Callable[..., ChainExhausted], tuple[Any, ...]]:
        facts = (self.chain, self.failure, self.attempts, self.skipped, self.reason, self.last_reply)
        return _restored, (_bases_of(type(self)), *facts)


@_named_after_ours
class ChainContextOverflow(ChainExhausted, langchain.ContextOverflowError):
    """The prompt is too long for every deployment that could be asked."""


@_named_after_ours
class ChainTimeout(ChainExhausted, langchain.ModelTimeoutError, TimeoutError):
    """`timeouts.total_s` ended the call, or its last attempt timed out."""


@_named_after_ours
class ChainRateLimited(ChainExhausted, langchain.ModelRateLimitError):
    """The last attempt was throttled, or its quota was used up."""


@_named_after_ours
class ChainUnauthenticated(ChainExhausted, langchain.ModelAuthenticationError):
    """The last attempt's credentials were refused (401)."""


@_named_after_ours
class ChainForbidden(ChainExhausted, langchain.ModelPermissionDeniedError):
    """The last attempt's credentials may not use this model (403)."""


@_named_after_ours
class ChainModelNotFound(ChainExhausted, langchain.ModelNotFoundError):
    """The last attempt asked for a model its provider does not know."""


@_named_after_ours
class ChainRequestRefused(ChainExhausted, langchain.ModelInvalidRequestError):
    """The last attempt's request was refused as invalid or by a safety system."""


# langchain-core has had the class since 1.7.5.
_REFUSALS = tuple(kind for name, kind in vars(langchain).items() if name == "ModelRefusalError")
ChainRefused: type[ChainExhausted] = _named_after_ours(
    type("ChainRefused", (ChainExhausted, langchain.ModelInvalidRequestError, *_REFUSALS), {"__module__": __name__})
)
"""The last attempt's reply says that the model, or a system beside it, will not answer."""


@_named_after_ours
class ChainUnreachable(ChainExhausted, langchain.ModelConnectionError):
    """The last attempt could not reach its server."""


@_named_after_ours
class ChainServerError(ChainExhausted, langchain.ModelAPIError):
    """The last attempt failed at its server, or brought no usable reply."""


@_named_after_ours
class ChainUnparsed(ChainExhausted, langchain.ModelAPIError, langchain.OutputParserException):
    """A reply was not of the form asked for, and the last attempt brought no better one."""

    def __init__(self, *facts: Any) -> None:
        super().__init__(*facts)
        self.llm_output = None if self.last_reply is None else self.last_reply.text


# Retrying middleware reads `is_retryable` of the class; the chain's has to win over LangChain's.
for _kind in (ChainTimeout, ChainRateLimited, ChainUnreachable, ChainServerError, ChainUnparsed):
    assert _kind.is_retryable is False

_ANSWERED = 200
"""The status of an attempt that brought a reply."""

_BY_FAILURE: dict[str, type[ChainExhausted]] = {
    "context_window": ChainContextOverflow,
    "rate_limited": ChainRateLimited,
    "quota_exhausted": ChainRateLimited,
    "auth": ChainUnauthenticated,
    "not_found": ChainModelNotFound,
    "bad_request": ChainRequestRefused,
    "content_policy": ChainRequestRefused,
    "connection": ChainUnreachable,
    "timeout": ChainTimeout,
    "first_token_timeout": ChainTimeout,
    "idle_timeout": ChainTimeout,
}


def exhausted(
    chain: str,
    failure: Failure,
    attempts: Sequence[Attempt],
    skipped: Sequence[Skip],
    *,
    reason: str = "",
    out_of_time: bool = False,
    last_reply: AIMessage | None = None,
) -> ChainExhausted:
    """The `ChainExhausted` whose LangChain class fits what happened.

    A prompt found too long anywhere counts most, then the end of `total_s`, then the last failure.
    """
    kind = _class_for(failure, attempts, out_of_time)
    if kind is ChainServerError and last_reply is not None:
        kind = ChainUnparsed
    return kind(chain, failure, attempts, skipped, reason, last_reply)


def _class_for(failure: Failure, attempts: Sequence[Attempt], out_of_time: bool) -> type[ChainExhausted]:
    if any(attempt.failure == "context_window" for attempt in attempts):
        return ChainContextOverflow
    if out_of_time:
        return ChainTimeout
    if failure == "content_policy" and attempts and attempts[-1].status == _ANSWERED:
        return ChainRefused
    if failure == "auth" and attempts and attempts[-1].status == 403:
        return ChainForbidden
    return _BY_FAILURE.get(failure, ChainServerError)


class StreamBroken(LLMFallbackError):
    """A stream ended early after part of the reply was delivered."""

    is_retryable = False

    def __init__(self, message: str, partial: AIMessage, attempts: Sequence[Attempt]) -> None:
        self.message = message
        self.partial = partial
        """The part of the reply that was delivered, as a message."""
        self.attempts = tuple(attempts)
        super().__init__(message)

    def __reduce__(self) -> tuple[Callable[..., StreamBroken], tuple[Any, ...]]:
        return _restored, (_bases_of(type(self)), self.message, self.partial, self.attempts)


@_named_after_ours
class StreamCut(StreamBroken, langchain.ModelConnectionError):
    """The stream was cut, or ended without a finish from the server."""


StreamRefused: type[StreamBroken] = _named_after_ours(
    type("StreamRefused", (StreamBroken, langchain.ModelConnectionError, *_REFUSALS), {"__module__": __name__})
)
"""The reply says after a part of it that the model, or a system beside it, will not go on."""


@_named_after_ours
class StreamStalled(StreamBroken, langchain.ModelTimeoutError):
    """Nothing more came within `idle_s`, or `total_s` ended the call in the middle of the reply."""


class BudgetExceeded(LLMFallbackError):
    """The next attempt could go over a budget; nothing was sent for it."""

    is_retryable = False
    """False: the next call would be refused as well."""

    def __init__(
        self,
        spent: float,
        limit: float,
        scope: str,
        attempt_usd: float | None = None,
        attempts: Sequence[Attempt] = (),
        skipped: Sequence[Skip] = (),
    ) -> None:
        self.spent = spent
        """US dollars spent in the scope so far, or reserved for running attempts."""
        self.limit = limit
        """US dollars allowed in the scope."""
        self.scope = scope
        """What the budget applies to, as in `chain assistant, per day`."""
        self.attempt_usd = attempt_usd
        """The most the next attempt might have cost, in US dollars; None if not known."""
        self.attempts = tuple(attempts)
        """The attempts of the call before."""
        self.skipped = tuple(skipped)
        head = over_budget(spent, limit, scope, attempt_usd)
        super().__init__("\n".join([head, *(f"  {fact}" for fact in (*self.attempts, *self.skipped))]))

    def __reduce__(self) -> tuple[Callable[..., BudgetExceeded], tuple[Any, ...]]:
        facts = (self.attempt_usd, self.attempts, self.skipped)
        return type(self), (self.spent, self.limit, self.scope, *facts)


class BatchRefused(LLMFallbackError, ValueError):
    """A source that cannot be read, or a target that does not go with it: named with file, line and remedy. Nothing was
    sent, and nothing was written."""


def over_budget(spent: float, limit: float, scope: str, attempt_usd: float | None) -> str:
    """The reason why an attempt was not made, in one line."""
    attempt = "" if attempt_usd is None else f", and the next attempt might cost ${attempt_usd:g}"
    return f"budget of ${limit:g} for {scope} would be exceeded: ${spent:g} spent or set aside{attempt}"
