"""A spec as plain data, for type checkers and editors: a TypedDict for each of its parts.

Made from the models of a spec; `make docs` writes it anew.

    spec: SpecDict = {"deployments": {"own": {"model": "openai/gpt-4.1"}}, "chains": {"main": {"tiers": ["own"]}}}
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from decimal import Decimal
from typing import Any, Literal, Required

from pydantic import SecretStr
from typing_extensions import TypedDict

from llm_fallback.spec.model_profile import Profile


class LimitsDict(TypedDict, total=False):
    """What may be sent to a deployment; at a limit it is passed over. And how long its replies may be."""

    rpm: int | None
    """Requests a minute."""

    tpm: int | None
    """Tokens a minute, input and output together."""

    max_parallel: int | Literal["auto"] | None
    """Requests under way at the same time. `auto`: as many as are found to bring more answers; a 429 that names no time
    then makes them fewer, and opens no breaker.
    """

    reply_mb: float
    """Megabytes of one reply, plain or streamed, decompressed. A longer one is a failure, `invalid_response`."""


class BreakerDict(TypedDict, total=False):
    """When a deployment is left alone for a while: when both `failures` and `failure_ratio` are reached."""

    failures: int
    """Failures within the window before it opens."""

    failure_ratio: float
    """Share of the window's calls that must have failed before it opens, above 0 up to 1."""

    window_s: float
    """Length of the window that is looked back on, in seconds."""

    cooldown_s: float
    """Seconds it stays open before one probe goes through; doubles per failed probe to 300."""

    slow_times: float | None
    """An answer that takes more than a second, and so many times as long as the deployment's own and its tier mates'
    usually do, counts as a failure here. Default: no answer does.
    """


class ColdStartDict(TypedDict, total=False):
    """For a deployment that scales to zero or is rolled out: for how long it counts as on its way up."""

    max_wait_s: Required[float]
    """Seconds from its first refusal (503, no connection) in which it is asked again after moments, 0.5 to 5 s, and
    waited for when nobody else is left. After that its breaker takes over.
    """


class DeploymentSettingsDict(TypedDict, total=False):
    """How a deployment is asked."""

    params: Mapping[str, Any]
    """Request parameters, as litellm takes them: temperature, max_tokens, extra_headers."""

    limits: LimitsDict | None
    """What may be sent to it. Default: no limit."""

    breaker: BreakerDict | Literal["off", False] | None
    """When it is left alone for a while, or `off`."""

    cold_start: ColdStartDict | None
    """For a server that may be asleep or loading: look often whether it is up, and wait for it within `total_s`.
    Default: it is always up.
    """


class PriceDict(TypedDict, total=False):
    """What a deployment costs, in US dollars; per million means per 1,000,000 tokens."""

    input_per_million: float | str | Decimal | None
    """Dollars per million input tokens."""

    output_per_million: float | str | Decimal | None
    """Dollars per million output tokens."""

    cached_input_per_million: float | str | Decimal | None
    """Dollars per million input tokens read from the provider's cache. Default: as input."""

    cache_write_per_million: float | str | Decimal | None
    """Dollars per million input tokens written to the provider's cache. Default: as input."""

    reasoning_per_million: float | str | Decimal | None
    """Dollars per million output tokens spent thinking. Default: as output."""

    audio_input_per_million: float | str | Decimal | None
    """Dollars per million audio input tokens. Default: as input."""

    audio_output_per_million: float | str | Decimal | None
    """Dollars per million audio output tokens. Default: as output."""

    per_request: float | str | Decimal | None
    """Dollars per request, beside its tokens."""

    per_gpu_hour: float | str | Decimal | None
    """Dollars per hour of the hardware the server occupies."""


class AttemptTimeoutsDict(TypedDict, total=False):
    """How long one attempt may take, in seconds. null: no limit of its own (`total_s` still holds)."""

    attempt_s: float | None
    """Seconds one attempt may take: to its first token when streaming, else to its reply."""

    first_token_s: float | None
    """Seconds a streamed attempt may take to its first content, reasoning or tool call. None unless given. Plain calls
    have no first token.
    """

    idle_s: float | None
    """Seconds a stream may be silent between two chunks once it has begun."""


class DeploymentDict(DeploymentSettingsDict, total=False):
    """Where a model is served."""

    model: Required[str]
    """litellm's `provider/model`; with a `backend`, the name the model is served under."""

    backend: Literal["vllm", "tensorrt-llm", "openllm", "ray-serve", "litellm-proxy", "openai-compatible"] | None
    """The serving system, for servers of one's own."""

    base_model: str | None
    """What is served, as litellm's price list names it: decides price and window, and whether two deployments serve the
    same. Default: `model`.
    """

    api_key: str | SecretStr | Callable[[], str] | None
    """The key, best as ${NAME}. Default: the provider's own variable; none with a `backend` or an `api_base`. In Python
    also a function, asked per attempt.
    """

    api_base: str | None
    """The server's address, with or without /v1. Default: the provider's own."""

    price: PriceDict | Literal["free"] | None
    """What it costs, in US dollars, or `free`. Default: litellm's price list, else unknown."""

    context_window: int | None
    """Longest prompt and reply together, in tokens. Default: litellm's list, else unknown."""

    profile: Profile
    """What the model can do, in LangChain's ModelProfile words."""

    weight: float
    """Its capacity beside the others of its tier: its share of the load. 0: out of rotation."""

    zone: str | None
    """Who gets to see a prompt that is sent there, in a word of one's own, as `own` or `eu`. Default: outside of every
    zone.
    """

    timeouts: AttemptTimeoutsDict | None
    """How long an attempt at it may take, in seconds."""

    finish_reasons: Mapping[str, Literal["stop", "length", "tool_calls"]]
    """Words of its own by which it says that a reply is whole, and what they mean: `{end: stop}`. By a word nobody
    knows, a reply counts as cut.
    """


class TimeoutsDict(AttemptTimeoutsDict, total=False):
    """How long a call and its attempts may take, in seconds."""

    total_s: float
    """Seconds a call may keep its caller waiting: attempts, waits and stream together."""


class RetriesDict(TypedDict, total=False):
    """Requests beyond one per deployment, made only when nothing else is left to try."""

    max: int
    """How many more requests a call may make after every deployment was tried. 0: none."""

    wait_initial_s: float
    """Upper end of the first random wait before such a request, in seconds; then doubled."""

    wait_max_s: float
    """Longest such wait, in seconds."""


class HedgeDict(TypedDict, total=False):
    """Ask one more deployment when the first is slow, and take whoever answers first."""

    after_s: float | Literal["p95"]
    """Seconds without a first token (plain calls: a reply) before the second is asked; p95: the time 95 % of the
    deployment's recent calls took.
    """


class BudgetDict(TypedDict, total=False):
    """What a chain may cost, in US dollars; a call that could go over is not made. Default: no limit."""

    usd_per_call: float | str | Decimal | None
    """Dollars one call may cost, all its attempts together."""

    usd_per_run: float | str | Decimal | None
    """Dollars one run may cost: all calls of the chain below one outermost run of LangChain, as of an agent or
    graph.
    """

    usd_per_day: float | str | Decimal | None
    """Dollars all calls of the chain together may cost in a day, from midnight UTC."""

    per: str | None
    """A key of config metadata: each of its values has a budget of its own, and calls without it have one together."""

    file: str | None
    """Path of a file that keeps what the day has cost, across restarts and between processes. Default: kept in
    memory.
    """

    on_limit: Literal["raise", "cheaper"]
    """Where money is short: `raise` BudgetExceeded, or go on with the deployments it suffices for, `free` ones always
    (`cheaper`).
    """


class ChainSettingsDict(TypedDict, total=False):
    """How a chain behaves; a call to `build_chat_model` may override each."""

    timeouts: TimeoutsDict | None
    """How long a call and its attempts may take, in seconds."""

    retries: RetriesDict | None
    """Requests beyond one per deployment."""

    hedge: HedgeDict | Literal["off", False] | None
    """Ask a second deployment when the first is slow. Default: off."""

    on_stream_break: Literal["raise", "continue", "hold"] | None
    """When a stream ends early: `raise` StreamBroken (default), `continue` with the next deployment, or `hold` every
    reply until it is whole.
    """

    accept: str | Callable[..., bool] | None
    """Import path of a function from AIMessage to bool; a reply it rejects is a failure."""

    budget: BudgetDict | None
    """What the chain may cost, in US dollars. Default: no limit."""

    balance: Literal["least_loaded", "weighted"] | None
    """Who of a tier is asked first: of two drawn by weight the less loaded (`least_loaded`, default), or whoever is
    drawn (`weighted`).
    """

    affinity: Literal["off", "thread", "prefix"] | None
    """Keep on one member of a tier, for its cache: a conversation (`thread`), or all prompts that begin alike
    (`prefix`). Default: `off`.
    """

    zones: Collection[str] | None
    """No prompt of the chain goes to a deployment outside of these. Default: it may go to all."""


class ChainDict(ChainSettingsDict, total=False):
    """What an application asks for: deployments in the order they are tried."""

    tiers: Required[Sequence[str | Sequence[str]]]
    """Deployments, tried in order; a list in it is one tier whose members share the load."""

    on_context_window: Sequence[str | Sequence[str]] | None
    """Tiers for a prompt that is too long; [] raises instead. Default: the deployments of the chain with a larger
    window.
    """

    on_content_policy: Sequence[str | Sequence[str]] | None
    """Tiers for a prompt or reply a safety system refuses; [] raises instead. Default: the next tier."""


class DefaultsDict(ChainSettingsDict, DeploymentSettingsDict, total=False):
    """What goes for every chain and deployment; each may override it key by key."""


class RunnableSpecDict(TypedDict, total=False):
    """A prompt, a chain and the shape of the answer, as one Runnable."""

    chain: str | None
    """The chain that answers. Default: the default chain."""

    prompt: Required[str]
    """The prompt; {name} is filled from the input, {{ is a brace itself."""

    output: str
    """`text`, `json`, or the import path of a pydantic model, `package.module:Name`. A reply that is not of this form
    is a failure, and the next deployment is asked.
    """


class FleetDict(TypedDict, total=False):
    """Many processes that behave as one: where they exchange what they learn, and who belongs to them."""

    store: Required[str]
    """Where they meet, best as ${NAME}: redis://, rediss:// or unix:// for Redis 5 or later and Valkey, file:///path
    for the processes of one machine.
    """

    name: str
    """Tells this fleet from others in the same store."""

    secret: str | SecretStr | None
    """By it names are made unreadable in the store, best as ${NAME}. Default: the store's password."""

    processes: int
    """How many processes there are, for their parts of the limits where the store was never reached."""


class ServeDict(TypedDict, total=False):
    """Where `llm-fallback serve` listens, and who may call."""

    host: str
    """The address to listen at; 0.0.0.0 is every one of the machine. Without `keys` only this machine is answered,
    whatever stands here.
    """

    port: int
    """The port to listen at; 0 is any that is free."""

    keys: Sequence[SecretStr]
    """Keys of which a caller has to send one, best as ${NAME}. Default: none, and no key is asked for."""


class SpecDict(TypedDict, total=False):
    """Deployments, chains of them, and what goes for all."""

    deployments: Required[Mapping[str, DeploymentDict]]
    """Where models are served, by names of one's own."""

    chains: Mapping[str, ChainDict]
    """What applications ask for, by name."""

    default_chain: str | None
    """The chain that is meant when none is named. Default: the only one."""

    defaults: DefaultsDict
    """What goes for every chain and deployment."""

    runnables: Mapping[str, RunnableSpecDict]
    """Prompts joined to chains, by name; `build_runnables` makes them."""

    fleet: FleetDict | None
    """Processes that share what they learn. Default: each is on its own."""

    serve: ServeDict
    """Where `llm-fallback serve` listens, and the keys it asks for."""
