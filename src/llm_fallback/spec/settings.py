"""The small parts of a spec: how long, how often, how much, at what price.

Each is closed (an unknown word is a mistake), immutable, and knows which of its fields were written, so
that one part can override another key by key. The defaults here are the library's.
"""

from collections.abc import Mapping
from decimal import Decimal
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    PlainSerializer,
    SecretStr,
    SerializerFunctionWrapHandler,
    Tag,
    WithJsonSchema,
    model_serializer,
    model_validator,
)
from pydantic_core import PydanticCustomError

SIDE_ROUTES = ("on_context_window", "on_content_policy")
"""Fields of a chain that name the deployments asked instead of its tiers after failures of one kind."""
ROUTES = ("tiers", *SIDE_ROUTES)
"""Fields of a chain that name deployments."""


class Part(BaseModel):
    """A piece of a spec. Its dump holds only what was written: a default in it would override others."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True, defer_build=True)

    def given(self) -> dict[str, Any]:
        """The fields that were written, including explicit nulls."""
        return {name: getattr(self, name) for name in type(self).model_fields if name in self.model_fields_set}

    @model_serializer(mode="wrap")
    def _as_written(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return {name: value for name, value in dump(self).items() if name in self.model_fields_set}


def wrong(text: str, remedy: str | None = None) -> PydanticCustomError:
    """The error a validator raises, with its text and remedy."""
    return PydanticCustomError("spec", "{text}", {"text": text, "remedy": remedy})


def _not_a_switch(value: Any) -> Any:
    if isinstance(value, bool):
        raise wrong(f"must be a number, got {str(value).lower()}")
    return value


def _shape(value: Any) -> str:
    return "<word>" if isinstance(value, str | bool) else "<other>"


def _off(value: Any) -> Any:
    return "off" if value is False else value


def _several(value: Any) -> Any:
    return (value,) if isinstance(value, str) else value


Seconds = Annotated[float, Field(strict=True, gt=0, allow_inf_nan=False)]
Megabytes = Annotated[float, Field(strict=True, gt=0, allow_inf_nan=False)]
Count = Annotated[int, Field(strict=True, ge=1)]
Parallel = Annotated[
    Annotated[Count, Tag("<other>")] | Annotated[Literal["auto"], Tag("<word>")], Discriminator(_shape)
]
"""A number of requests, or `auto`."""
Dollars = Annotated[
    Decimal,
    BeforeValidator(_not_a_switch),
    Field(ge=0, allow_inf_nan=False),
    WithJsonSchema({"anyOf": [{"type": "number", "minimum": 0}, {"type": "string", "pattern": r"^[0-9.eE+-]+$"}]}),
]


class AttemptTimeouts(Part):
    """How long one attempt may take, in seconds. null: no limit of its own (`total_s` still holds)."""

    attempt_s: Seconds | None = Field(
        120,
        description="Seconds one attempt may take: to its first token when streaming, else to its reply.",
    )
    first_token_s: Seconds | None = Field(
        None,
        description="Seconds a streamed attempt may take to its first content, reasoning or tool call. "
        "None unless given. Plain calls have no first token.",
    )
    idle_s: Seconds | None = Field(
        60, description="Seconds a stream may be silent between two chunks once it has begun."
    )


class Timeouts(AttemptTimeouts):
    """How long a call and its attempts may take, in seconds."""

    total_s: Seconds = Field(
        300, description="Seconds a call may keep its caller waiting: attempts, waits and stream together."
    )


class Retries(Part):
    """Requests beyond one per deployment, made only when nothing else is left to try."""

    max: Annotated[int, Field(strict=True, ge=0)] = Field(
        2, description="How many more requests a call may make after every deployment was tried. 0: none."
    )
    wait_initial_s: Seconds = Field(
        0.5,
        description="Upper end of the first random wait before such a request, in seconds; then doubled.",
    )
    wait_max_s: Seconds = Field(8, description="Longest such wait, in seconds.")


class Breaker(Part):
    """When a deployment is left alone for a while: when both `failures` and `failure_ratio` are reached."""

    failures: Count = Field(3, description="Failures within the window before it opens.")
    failure_ratio: Annotated[float, Field(strict=True, gt=0, le=1)] = Field(
        0.5, description="Share of the window's calls that must have failed before it opens, above 0 up to 1."
    )
    window_s: Seconds = Field(60, description="Length of the window that is looked back on, in seconds.")
    cooldown_s: Seconds = Field(
        30,
        description="Seconds it stays open before one probe goes through; doubles per failed probe to 300.",
    )
    slow_times: Annotated[float, Field(strict=True, gt=1, allow_inf_nan=False)] | None = Field(
        None,
        description="An answer that takes more than a second, and so many times as long as the deployment's own and "
        "its tier mates' usually do, counts as a failure here. Default: no answer does.",
    )


class Limits(Part):
    """What may be sent to a deployment; at a limit it is passed over. And how long its replies may be."""

    rpm: Count | None = Field(None, description="Requests a minute.")
    tpm: Count | None = Field(None, description="Tokens a minute, input and output together.")
    max_parallel: Parallel | None = Field(
        None,
        description="Requests under way at the same time. `auto`: as many as are found to bring more answers; a 429 "
        "that names no time then makes them fewer, and opens no breaker.",
    )
    reply_mb: Megabytes = Field(
        64,
        description="Megabytes of one reply, plain or streamed, decompressed. A longer one is a failure, "
        "`invalid_response`.",
    )


class Hedge(Part):
    """Ask one more deployment when the first is slow, and take whoever answers first."""

    after_s: Annotated[
        Annotated[Seconds, Tag("<other>")] | Annotated[Literal["p95"], Tag("<word>")], Discriminator(_shape)
    ] = Field(
        "p95",
        description="Seconds without a first token (plain calls: a reply) before the second is asked; "
        "p95: the time 95 % of the deployment's recent calls took.",
    )


class Budget(Part):
    """What a chain may cost, in US dollars; a call that could go over is not made. Default: no limit."""

    usd_per_call: Dollars | None = Field(None, description="Dollars one call may cost, all its attempts together.")
    usd_per_run: Dollars | None = Field(
        None,
        description="Dollars one run may cost: all calls of the chain below one outermost run of LangChain, "
        "as of an agent or graph.",
    )
    usd_per_day: Dollars | None = Field(
        None, description="Dollars all calls of the chain together may cost in a day, from midnight UTC."
    )
    per: Annotated[str, Field(min_length=1)] | None = Field(
        None,
        description="A key of config metadata: each of its values has a budget of its own, and calls without it "
        "have one together.",
    )
    file: Annotated[str, Field(min_length=1)] | None = Field(
        None,
        description="Path of a file that keeps what the day has cost, across restarts and between processes. "
        "Default: kept in memory.",
    )
    on_limit: Literal["raise", "cheaper"] = Field(
        "raise",
        description="Where money is short: `raise` BudgetExceeded, or go on with the deployments it suffices for, "
        "`free` ones always (`cheaper`).",
    )

    @property
    def limits(self) -> Mapping[str, Decimal]:
        """What is limited, by call, run and day, in US dollars."""
        written = {"call": self.usd_per_call, "run": self.usd_per_run, "day": self.usd_per_day}
        return {window: usd for window, usd in written.items() if usd is not None}


class ColdStart(Part):
    """For a deployment that scales to zero or is rolled out: for how long it counts as on its way up."""

    max_wait_s: Seconds = Field(
        description="Seconds from its first refusal (503, no connection) in which it is asked again after moments, "
        "0.5 to 5 s, and waited for when nobody else is left. After that its breaker takes over."
    )


def _caller_key(value: Any) -> Any:
    if isinstance(value, SecretStr):
        return value
    if not isinstance(value, str) or not value:
        # Without the value: it may be somebody's key all the same.
        raise wrong("must be a text that is not empty", "write ${NAME} to take it from the environment")
    return SecretStr(value)


CallerKey = Annotated[SecretStr, BeforeValidator(_caller_key)]


class Serve(Part):
    """Where `llm-fallback serve` listens, and who may call."""

    host: Annotated[str, Field(min_length=1)] = Field(
        "127.0.0.1",
        description="The address to listen at; 0.0.0.0 is every one of the machine. Without `keys` only this machine "
        "is answered, whatever stands here.",
    )
    port: Annotated[int, Field(strict=True, ge=0, le=65535)] = Field(
        8000, description="The port to listen at; 0 is any that is free."
    )
    keys: tuple[CallerKey, ...] = Field(
        (),
        description="Keys of which a caller has to send one, best as ${NAME}. Default: none, and no key is asked for.",
    )


class Price(Part):
    """What a deployment costs, in US dollars; per million means per 1,000,000 tokens."""

    input_per_million: Dollars | None = Field(None, description="Dollars per million input tokens.")
    output_per_million: Dollars | None = Field(None, description="Dollars per million output tokens.")
    cached_input_per_million: Dollars | None = Field(
        None,
        description="Dollars per million input tokens read from the provider's cache. Default: as input.",
    )
    cache_write_per_million: Dollars | None = Field(
        None,
        description="Dollars per million input tokens written to the provider's cache. Default: as input.",
    )
    reasoning_per_million: Dollars | None = Field(
        None, description="Dollars per million output tokens spent thinking. Default: as output."
    )
    audio_input_per_million: Dollars | None = Field(
        None, description="Dollars per million audio input tokens. Default: as input."
    )
    audio_output_per_million: Dollars | None = Field(
        None, description="Dollars per million audio output tokens. Default: as output."
    )
    per_request: Dollars | None = Field(None, description="Dollars per request, beside its tokens.")
    per_gpu_hour: Dollars | None = Field(None, description="Dollars per hour of the hardware the server occupies.")

    @model_validator(mode="after")
    def _says_something(self) -> Self:
        if not self.given():
            raise wrong("is empty", "write a price, or 'price: free'")
        return self


BreakerOrOff = Annotated[
    Annotated[Breaker, Tag("<other>")] | Annotated[Literal["off", False], Tag("<word>")],
    Discriminator(_shape),
    AfterValidator(_off),
]
"""A breaker, or `off`; YAML 1.1 reads a bare off as false, which means the same."""

PriceOrFree = Annotated[
    Annotated[Price, Tag("<other>")] | Annotated[Literal["free"], Tag("<word>")], Discriminator(_shape)
]
HedgeOrOff = Annotated[
    Annotated[Hedge, Tag("<other>")] | Annotated[Literal["off", False], Tag("<word>")],
    Discriminator(_shape),
    AfterValidator(_off),
]
OnStreamBreak = Literal["raise", "continue", "hold"]
Balance = Literal["least_loaded", "weighted"]
Affinity = Annotated[Literal["off", "thread", "prefix"], BeforeValidator(_off)]
Zone = Annotated[str, Field(min_length=1)]
Zones = Annotated[frozenset[Zone], BeforeValidator(_several), PlainSerializer(sorted)]
"""Words of one's own for who gets to see a prompt; one may stand by itself."""
