"""The entries of a spec: deployments, chains, runnables, and the defaults for all of them.

Each entry validates itself; `consistency` checks that they fit together. Secrets are SecretStr from here on.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from contextlib import suppress
from string import Formatter
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    PlainSerializer,
    PlainValidator,
    SecretStr,
    WithJsonSchema,
    model_validator,
)

from llm_fallback.errors import did_you_mean
from llm_fallback.spec.consistency import suggest
from llm_fallback.spec.model_profile import Profile
from llm_fallback.spec.providers import BACKENDS, backend_called, with_slash
from llm_fallback.spec.secrets import Address, mask, safe_repr, shown_address
from llm_fallback.spec.settings import (
    Affinity,
    AttemptTimeouts,
    Balance,
    BreakerOrOff,
    Budget,
    ColdStart,
    Count,
    HedgeOrOff,
    Limits,
    OnStreamBreak,
    Part,
    PriceOrFree,
    Retries,
    Timeouts,
    Zone,
    Zones,
    wrong,
)

_IMPORT_PATH = r"^[A-Za-z_][\w.]*:[A-Za-z_][\w.]*$"


def _validate_key(value: Any) -> Any:
    if isinstance(value, SecretStr) or callable(value):
        return value
    if not isinstance(value, str):
        raise wrong("must be a string", "write ${NAME} to take it from the environment")
    if not value:
        raise wrong("is empty", "leave it out where no key is needed")
    return SecretStr(value)


def _validate_accept(value: Any) -> Any:
    if callable(value) or (isinstance(value, str) and re.match(_IMPORT_PATH, value)):
        return value
    raise wrong(f"must be an import path like 'package.module:name', got {safe_repr(value, ()) or 'another text'}")


def _validate_output(value: Any) -> str:
    if isinstance(value, str) and re.match(rf"{_IMPORT_PATH}|^(text|json)$", value):
        return value
    raise wrong(
        f"must be 'text', 'json' or an import path like 'package.module:Model', got {safe_repr(value, ())}",
        did_you_mean(value, ("text", "json")) or None,
    )


def _validate_prompt(value: str) -> str:
    flaw = prompt_flaw(value)
    if flaw is not None:
        raise wrong(*flaw)
    return value


def _import_path(validator: Any) -> Any:
    return f"{validator.__module__}:{validator.__qualname__}" if hasattr(validator, "__qualname__") else validator


def _validate_tier(value: Any) -> Any:
    if isinstance(value, str):
        return (value,)
    if isinstance(value, list | tuple):
        return value
    raise wrong(f"must be a deployment's name or a list of names, got {safe_repr(value, ())}")


def _validate_backend(value: str) -> str:
    if value in BACKENDS:
        return value
    meant = backend_called(value)
    known = f"the backend is called {meant!r} here" if meant else suggest(value, BACKENDS)
    raise wrong(f"no backend is called {value!r}", known)


ApiKey = Annotated[
    SecretStr | Callable[[], str],
    PlainValidator(_validate_key),
    PlainSerializer(lambda _: "**********", when_used="json"),
    WithJsonSchema({"type": "string", "minLength": 1}),
]
Validator = Annotated[
    str | Callable[..., bool],
    PlainValidator(_validate_accept),
    PlainSerializer(_import_path, when_used="json"),
    WithJsonSchema({"type": "string", "pattern": _IMPORT_PATH}),
]
Output = Annotated[
    str,
    PlainValidator(_validate_output),
    WithJsonSchema({"anyOf": [{"enum": ["text", "json"]}, {"type": "string", "pattern": _IMPORT_PATH}]}),
]
Prompt = Annotated[str, Field(min_length=1), AfterValidator(_validate_prompt)]
Tier = Annotated[
    tuple[str, ...],
    Field(min_length=1),
    BeforeValidator(_validate_tier),
    WithJsonSchema({"anyOf": [{"type": "string"}, {"type": "array", "minItems": 1, "items": {"type": "string"}}]}),
]
Tiers = tuple[Tier, ...]
BackendName = Annotated[
    str, AfterValidator(_validate_backend), WithJsonSchema({"type": "string", "enum": list(BACKENDS)})
]
Parameters = Annotated[dict[str, Any], AfterValidator(mask)]
FinishReasons = dict[Annotated[str, Field(min_length=1)], Literal["stop", "length", "tool_calls"]]
"""Words of a server's own, and OpenAI's word for each."""


ServerAddress = Annotated[str, AfterValidator(Address), PlainSerializer(shown_address, when_used="json")]


FleetSecret = Annotated[
    SecretStr,
    Field(min_length=1),
    PlainSerializer(lambda _: "**********", when_used="json"),
    WithJsonSchema({"type": "string", "minLength": 1}),
]


class ChainSettings(Part):
    """How a chain behaves; a call to `build_chat_model` may override each."""

    timeouts: Timeouts | None = Field(None, description="How long a call and its attempts may take, in seconds.")
    retries: Retries | None = Field(None, description="Requests beyond one per deployment.")
    hedge: HedgeOrOff | None = Field(None, description="Ask a second deployment when the first is slow. Default: off.")
    on_stream_break: OnStreamBreak | None = Field(
        None,
        description="When a stream ends early: `raise` StreamBroken (default), `continue` with the next "
        "deployment, or `hold` every reply until it is whole.",
    )
    accept: Validator | None = Field(
        None, description="Import path of a function from AIMessage to bool; a reply it rejects is a failure."
    )
    budget: Budget | None = Field(None, description="What the chain may cost, in US dollars. Default: no limit.")
    balance: Balance | None = Field(
        None,
        description="Who of a tier is asked first: of two drawn by weight the less loaded (`least_loaded`, default), "
        "or whoever is drawn (`weighted`).",
    )
    affinity: Affinity | None = Field(
        None,
        description="Keep on one member of a tier, for its cache: a conversation (`thread`), or all prompts that "
        "begin alike (`prefix`). Default: `off`.",
    )
    zones: Zones | None = Field(
        None, description="No prompt of the chain goes to a deployment outside of these. Default: it may go to all."
    )


class DeploymentSettings(Part):
    """How a deployment is asked."""

    params: Parameters = Field(
        default_factory=dict,
        description="Request parameters, as litellm takes them: temperature, max_tokens, extra_headers.",
    )
    limits: Limits | None = Field(None, description="What may be sent to it. Default: no limit.")
    breaker: BreakerOrOff | None = Field(None, description="When it is left alone for a while, or `off`.")
    cold_start: ColdStart | None = Field(
        None,
        description="For a server that may be asleep or loading: look often whether it is up, and wait for it "
        "within `total_s`. Default: it is always up.",
    )


class Defaults(ChainSettings, DeploymentSettings):
    """What goes for every chain and deployment; each may override it key by key."""


class Deployment(DeploymentSettings):
    """Where a model is served."""

    model: Annotated[str, Field(min_length=1)] = Field(
        description="litellm's `provider/model`; with a `backend`, the name the model is served under."
    )
    backend: BackendName | None = Field(None, description="The serving system, for servers of one's own.")
    base_model: str | None = Field(
        None,
        description="What is served, as litellm's price list names it: decides price and window, and whether "
        "two deployments serve the same. Default: `model`.",
    )
    api_key: ApiKey | None = Field(
        None,
        description="The key, best as ${NAME}. Default: the provider's own variable; none with a `backend` "
        "or an `api_base`. In Python also a function, asked per attempt.",
    )
    api_base: ServerAddress | None = Field(
        None, description="The server's address, with or without /v1. Default: the provider's own."
    )
    price: PriceOrFree | None = Field(
        None,
        description="What it costs, in US dollars, or `free`. Default: litellm's price list, else unknown.",
    )
    context_window: Annotated[int, Field(strict=True, ge=1)] | None = Field(
        None,
        description="Longest prompt and reply together, in tokens. Default: litellm's list, else unknown.",
    )
    profile: Profile = Field(
        default_factory=Profile, description="What the model can do, in LangChain's ModelProfile words."
    )
    weight: Annotated[float, Field(strict=True, ge=0, allow_inf_nan=False)] = Field(
        1, description="Its capacity beside the others of its tier: its share of the load. 0: out of rotation."
    )
    zone: Zone | None = Field(
        None,
        description="Who gets to see a prompt that is sent there, in a word of one's own, as `own` or `eu`. Default: "
        "outside of every zone.",
    )
    timeouts: AttemptTimeouts | None = Field(None, description="How long an attempt at it may take, in seconds.")
    finish_reasons: FinishReasons = Field(
        default_factory=dict,
        description="Words of its own by which it says that a reply is whole, and what they mean: `{end: stop}`. "
        "By a word nobody knows, a reply counts as cut.",
    )

    @model_validator(mode="before")
    @classmethod
    def _provider_with_slash(cls, data: Any) -> Any:
        hosted = isinstance(data, Mapping) and data.get("backend") is None and isinstance(data.get("model"), str)
        return {**data, "model": with_slash(data["model"])} if hosted else data


class Chain(ChainSettings):
    """What an application asks for: deployments in the order they are tried."""

    tiers: Annotated[Tiers, Field(min_length=1)] = Field(
        description="Deployments, tried in order; a list in it is one tier whose members share the load."
    )
    on_context_window: Tiers | None = Field(
        None,
        description="Tiers for a prompt that is too long; [] raises instead. "
        "Default: the deployments of the chain with a larger window.",
    )
    on_content_policy: Tiers | None = Field(
        None,
        description="Tiers for a prompt or reply a safety system refuses; [] raises instead. Default: the next tier.",
    )

    def deployments(self) -> tuple[str, ...]:
        """The name of every deployment of the chain, once, in order."""
        tiers = (*self.tiers, *(self.on_context_window or ()), *(self.on_content_policy or ()))
        return tuple(dict.fromkeys(name for tier in tiers for name in tier))


class RunnableSpec(Part):
    """A prompt, a chain and the shape of the answer, as one Runnable."""

    chain: str | None = Field(None, description="The chain that answers. Default: the default chain.")
    prompt: Prompt = Field(description="The prompt; {name} is filled from the input, {{ is a brace itself.")
    output: Output = Field(
        "text",
        description="`text`, `json`, or the import path of a pydantic model, `package.module:Name`. A reply that is "
        "not of this form is a failure, and the next deployment is asked.",
    )


class Fleet(Part):
    """Many processes that behave as one: where they exchange what they learn, and who belongs to them."""

    store: Annotated[ServerAddress, Field(min_length=1)] = Field(
        description="Where they meet, best as ${NAME}: redis://, rediss:// or unix:// for Redis 5 or later and Valkey, "
        "file:///path for the processes of one machine."
    )
    name: Annotated[str, Field(min_length=1)] = Field(
        "default", description="Tells this fleet from others in the same store."
    )
    secret: FleetSecret | None = Field(
        None,
        description="By it names are made unreadable in the store, best as ${NAME}. Default: the store's password.",
    )
    processes: Count = Field(
        1,
        description="How many processes there are, for their parts of the limits where the store was never reached.",
    )


_REMEDY = "write a name in braces, {{ and }} for braces themselves"
_SAMPLES = ("", 0, 0.0)


def prompt_flaw(prompt: str) -> tuple[str, str] | None:
    """What is wrong with a prompt template, and the remedy; None if it is valid."""
    try:
        fields = [field for field in Formatter().parse(prompt) if field[1] is not None]
    except ValueError as error:
        return f"has a brace that belongs to no variable ({error})", _REMEDY
    for _, name, spec, conversion in fields:
        if not (str(name).isidentifier() and _is_format(spec or "", conversion)):
            rest = (f"!{conversion}" if conversion else "") + (f":{spec}" if spec else "")
            return f"{{{name}{rest}}} is no variable", _REMEDY
    return None


def _is_format(spec: str, conversion: str | None) -> bool:
    """Whether some value accepts this format; dates accept any format with a `%`."""
    if conversion is not None:
        return conversion in "rsa" and "{" not in spec and _takes("", spec)
    return "{" not in spec and ("%" in spec or any(_takes(sample, spec) for sample in _SAMPLES))


def _takes(value: object, spec: str) -> bool:
    with suppress(ValueError):
        format(value, spec)
        return True
    return False
