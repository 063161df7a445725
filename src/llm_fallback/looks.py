"""What a look at a deployment can show, and what it amounts to."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from pydantic import SecretStr

from llm_fallback.backends import BACKENDS
from llm_fallback.events import Failure
from llm_fallback.faults import Fault
from llm_fallback.plan import Target
from llm_fallback.remedies import remedy

_VERSION_AT_END = re.compile(r"/v\d[^/]*$")
_OPENAI_LIKE = ("openai", "hosted_vllm", "litellm_proxy")
_NO_ANSWER = ("connection", "timeout")


@dataclass(frozen=True, slots=True)
class Page:
    """What a GET brought."""

    status: int
    data: Any = None
    """The body, if it is JSON."""
    took_s: float | None = None


@dataclass(slots=True)
class Sight:
    """What the server's own pages say."""

    round_trip_s: float | None = None
    """Until the first page came."""
    health: int | None = None
    listing: int | None = None
    serves: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Answer:
    """What came of the request for one token."""

    first_token_s: float | None = None
    fault: Fault | None = None


@dataclass(frozen=True, slots=True)
class Ping:
    """What is known of a deployment after a look at it. None: not known. Times in seconds."""

    deployment: str
    model: str
    works: bool
    """Whether it answered a request."""
    reachable: bool | None
    ready: bool | None
    """By its own health page, unless it answered."""
    served: bool | None
    """Whether it has the model."""
    key_accepted: bool | None
    """None also where no key is sent."""
    round_trip_s: float | None
    first_token_s: float | None
    failure: Failure | None = None
    status: int | None = None
    message: str | None = None
    remedy: str | None = None
    serves: tuple[str, ...] = field(default=())
    """Models the server lists."""

    def as_data(self) -> dict[str, Any]:
        """Plain, JSON-serialisable data."""
        rounded = {
            name: None if (seconds := getattr(self, name)) is None else round(seconds, 6)
            for name in ("round_trip_s", "first_token_s")
        }
        return {**asdict(self), **rounded, "serves": list(self.serves)}


@dataclass(frozen=True, slots=True)
class Pages:
    """Where a server says how it is, and which models it has; None where nobody knows."""

    health: str | None = None
    models: str | None = None


def pages_of(target: Target) -> Pages:
    """The pages of a deployment's server. Of a provider nothing but its API is known."""
    base = str(target.parameters.get("api_base", "")).rstrip("/")
    provider = str(target.parameters["model"]).partition("/")[0]
    if not base or provider not in _OPENAI_LIKE:
        return Pages()
    if target.backend is None:
        return Pages(models=f"{base}/models")
    backend = BACKENDS[target.backend]
    # An address may have another version than the row's paths.
    return Pages(_VERSION_AT_END.sub("", base) + backend.health, base + backend.models.removeprefix("/v1"))


def models_in(data: Any) -> tuple[str, ...]:
    """The names in a listing as OpenAI writes it."""
    rows = data.get("data") if isinstance(data, Mapping) else None
    return tuple(str(row["id"]) for row in rows or () if isinstance(row, Mapping) and "id" in row)


def judged(target: Target, sight: Sight, answer: Answer, *, key: SecretStr | None) -> Ping:
    """What sight and answer amount to."""
    fault = answer.fault
    works = fault is None
    reachable = _reachable(sight, fault)
    return Ping(
        deployment=target.name,
        model=target.model,
        works=works,
        reachable=reachable,
        ready=True if works else _ready(sight, fault),
        served=True if works else _served(target, sight, fault),
        key_accepted=_key_accepted(target, sight, fault, key),
        round_trip_s=sight.round_trip_s,
        first_token_s=answer.first_token_s,
        failure=None if fault is None else fault.failure,
        status=None if fault is None else fault.status,
        message=None if fault is None else fault.message,
        remedy=None if fault is None else remedy(target, fault, sight.serves, key=key, reachable=reachable),
        serves=sight.serves,
    )


def _reachable(sight: Sight, fault: Fault | None) -> bool | None:
    if sight.round_trip_s is not None or fault is None or fault.failure not in _NO_ANSWER or fault.status is not None:
        return True
    return False if fault.failure == "connection" else None


def _ready(sight: Sight, fault: Fault | None) -> bool | None:
    if fault is not None and fault.failure == "overloaded":
        return False
    if sight.health is None or 400 <= sight.health < 500:
        return None
    return sight.health < 400


def _served(target: Target, sight: Sight, fault: Fault | None) -> bool | None:
    if sight.serves:
        return target.model_name in sight.serves
    return False if fault is not None and fault.failure == "not_found" else None


def _key_accepted(target: Target, sight: Sight, fault: Fault | None, key: SecretStr | None) -> bool | None:
    if fault is not None and (fault.failure == "auth" or sight.listing in (401, 403)):
        return False
    if key is None and not target.borrows_key:
        return None
    return True if fault is None or sight.listing == 200 else None
