"""A chat model over a chain of deployments, whoever carries its requests.

`ChainChatModel` stands in front of a class that turns messages into requests and replies into messages: ChatLiteLLM's
in production, one of the testing kit's in fakes. What a call goes through between the two is the engine's, here alike
for both, and nothing here loads litellm.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Generator, Iterator, Mapping, Sequence
from contextlib import aclosing, contextmanager
from contextvars import ContextVar, copy_context
from functools import partial
from inspect import signature
from math import inf
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self, TypeVar, cast
from uuid import uuid4

from langchain_core.callbacks import AsyncCallbackManagerForLLMRun, CallbackManager, CallbackManagerForLLMRun
from langchain_core.language_models import BaseChatModel, LanguageModelInput
from langchain_core.language_models.base import LangSmithParams
from langchain_core.language_models.chat_models import agenerate_from_stream, generate_from_stream
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult, Generation
from langchain_core.runnables import Runnable, RunnableConfig, ensure_config
from langchain_core.utils.function_calling import convert_to_openai_tool
from pydantic import Field, ValidationError, model_validator

from llm_fallback.chat_model.batch.estimate import BatchEstimate, estimate
from llm_fallback.chat_model.batch.job import BatchJob, BatchResult, run_in_thread
from llm_fallback.chat_model.batch.survey import BatchRequest, Tally
from llm_fallback.chat_model.caller import CallContext, Listener
from llm_fallback.chat_model.chain_table import chain_table
from llm_fallback.chat_model.chunks import aiter_chunks, iter_chunks
from llm_fallback.chat_model.conversion import (
    answered,
    as_cached,
    count_tokens,
    to_call,
)
from llm_fallback.chat_model.driver import aanswer_question, adrive, answer_question, drive
from llm_fallback.chat_model.lazy_field import LazyField
from llm_fallback.chat_model.portal import portal
from llm_fallback.chat_model.replies import to_result
from llm_fallback.chat_model.runtime import Adapter, ModelRuntime
from llm_fallback.chat_model.structured import OutputFormat, structured, with_raw
from llm_fallback.chat_model.unheard import is_plain_call, is_plain_stream, message_of, unheard_messages, without_forms
from llm_fallback.engine.engine import Answered, CallerQuestion
from llm_fallback.engine.execution import CallExecution
from llm_fallback.engine.health import DeploymentState
from llm_fallback.engine.ping import TIMEOUT_S, PingResult
from llm_fallback.engine.tokens import made_up_token_ids
from llm_fallback.errors import Mistake, SpecError
from llm_fallback.plan.explain import Explanation, explain
from llm_fallback.plan.plan import ChainPlan, Target
from llm_fallback.plan.profiles import chain_profile
from llm_fallback.spec import Spec
from llm_fallback.spec.consistency import suggest
from llm_fallback.spec.error_messages import problems_of_values
from llm_fallback.spec.load import Source
from llm_fallback.spec.model import of_build
from llm_fallback.spec.options import constructor_signature
from llm_fallback.spec.overrides import check_call, configure, read_spec
from llm_fallback.spec.shown import shown

_LOG = logging.getLogger("llm_fallback")

if TYPE_CHECKING:
    from langchain_core.language_models.chat_models import _ChatModelBinding

_caller: ContextVar[CallContext | None] = ContextVar("llm_fallback_caller", default=None)
"""Who makes the call that is being started in this context."""

_PROFILE = LazyField("profile", lambda model: chain_profile(model._plan(), model.runtime.engine.catalogue.profile))


_Method = TypeVar("_Method", bound=Callable[..., Any])


def _with_signature(method: _Method) -> _Method:
    """Keep a method's signature for LangChain, which asks for it at every call."""
    method.__signature__ = signature(method)  # type: ignore[attr-defined]
    return method


class ChainChatModel(BaseChatModel):
    """What every model over a chain has in common."""

    spec: Spec = Field(repr=False)
    chain: str
    """The chain asked unless a call names another."""
    listeners: Sequence[Listener] = Field(default=(), exclude=True, repr=False)
    """Each is called with every event, in the caller's own thread or task."""
    zones: frozenset[str] | None = Field(default=None)
    """Where prompts of this model may go, of the zones where a chain's may go at all; None: to all of those."""
    structured: OutputFormat | None = Field(default=None, exclude=True, repr=False)
    """The form replies must have, where `with_structured_output` asked for one."""
    runtime: ModelRuntime = Field(exclude=True, repr=False)

    lazy_fields: ClassVar[Mapping[str, LazyField]] = {"profile": _PROFILE}

    @classmethod
    def __pydantic_init_subclass__(cls, **kwargs: Any) -> None:
        super().__pydantic_init_subclass__(**kwargs)
        # pydantic's would offer every field of the classes below, most of which are refused.
        cls.__signature__ = constructor_signature(cls.__init__)

    def __init__(self, **fields: Any) -> None:
        try:
            super().__init__(**fields)
        except ValidationError as error:
            mistakes = [of_build(problem) for problem in problems_of_values(error)]
        else:
            return
        # A traceback shows this frame, too.
        del fields
        raise SpecError(mistakes)

    @model_validator(mode="after")
    def _clear_profile(self) -> Self:
        # It follows from the chain, which copies of this model change and reload renews, unless it was given.
        if self.profile is None:
            _PROFILE.clear(self)
        return self

    def __getattr__(self, name: str) -> Any:
        if name in self.lazy_fields:
            return self.lazy_fields[name].read(self)
        return super().__getattr__(name)  # type: ignore[misc]

    # What a user may ask of it besides answers.

    def with_chain(self, chain: str) -> Self:
        """A chat model on another chain of the same spec, with the same state. What is bound, tools too, is bound to
        what this returns: LangChain's bindings hand on the methods of a model, and forget themselves by it."""
        name = self._chain_name(chain)
        return self.model_copy(update={"chain": name, "model": name})

    def bind(self, **kwargs: Any) -> _ChatModelBinding:
        """LangChain's; `zones` are bound to the model itself, so that no call can widen them."""
        zones = self.runtime.plan.zones(kwargs.pop("zones", None))
        if zones is None:
            return super().bind(**kwargs)
        narrowed = self.model_copy(update={"zones": zones if self.zones is None else self.zones & zones})
        for field in self.lazy_fields.values():
            if field.is_kept:  # It may name deployments that are outside now.
                field.clear(narrowed)
        return narrowed.bind(**kwargs)

    def explain(self, chain: str | None = None) -> Explanation:
        """What one call may do, as plain data: tiers, the most requests, the most seconds; and by which road each
        deployment is asked: `direct`, or `relayed` through litellm whole, as all are while somebody listens to it."""
        return explain(self._plan(chain))

    def state(self) -> dict[str, DeploymentState]:
        """What is known of each deployment now, as plain data; with a fleet, under `fleet`, how that stands."""
        known: dict[str, Any] = {**self.runtime.engine.health.snapshot(self.runtime.engine.clock.now())}
        if self.runtime.fleet is not None:
            known["fleet"] = self.runtime.fleet.member.snapshot()
        return known

    def ping(self, chain: str | None = None, *, timeout_s: float = TIMEOUT_S) -> dict[str, PingResult]:
        """Ask every deployment for one token, all at once; of a chain, those it may ask.

        Per deployment plain data: `works` (it answered), `reachable`, `ready`, `served`, `key_accepted`, `serves` (the
        models it lists), `round_trip_s`, `first_token_s`, and of one that does not work `failure`, `status`, `message`
        and `remedy`. None is not known. Each has `timeout_s` seconds. Breakers, limits and budgets are neither heeded
        nor told.
        """
        targets = self._targets(chain)
        keys = {target.name: answer_question(_key_question(target)) for target in targets}
        return portal().run(self._pinged(targets, keys, timeout_s), copy_context())

    async def aping(self, chain: str | None = None, *, timeout_s: float = TIMEOUT_S) -> dict[str, PingResult]:
        """Like ping."""
        targets = self._targets(chain)
        keys = {target.name: await aanswer_question(_key_question(target)) for target in targets}
        return await self._pinged(targets, keys, timeout_s)

    async def _pinged(
        self, targets: Sequence[Target], keys: Mapping[str, Any], timeout_s: float
    ) -> dict[str, PingResult]:
        pings = {ping.deployment: ping async for ping in self.runtime.pings(targets, keys, timeout_s)}
        return {target.name: pings[target.name].as_data() for target in targets}

    def _targets(self, chain: str | None) -> list[Target]:
        self._check_open()
        plan = self.runtime.plan
        chains = [plan.chain(name).within(self.zones) for name in (plan.chains if chain is None else [chain])]
        return list({member.name: member.target for chain_plan in chains for member in chain_plan.members}.values())

    def reset_breaker(self, deployment: str) -> None:
        """Close the breaker of a deployment that is known to be well again, for all copies of this model; the next call
        may ask it. Raises SpecError for a deployment that there is not."""
        self.runtime.engine.health.reset_breaker(self._deployment(deployment))
        _LOG.info("the breaker of %s was closed by hand", shown(deployment))

    def open_breaker(self, deployment: str, for_s: float) -> None:
        """Ask a deployment nothing for so many seconds, in all copies of this model: it is about to be restarted, say.
        Requests under way go on; after that time one request finds out whether it answers. Raises SpecError for a
        deployment that there is not, and for a time that is none."""
        name = self._deployment(deployment)
        if isinstance(for_s, bool) or not isinstance(for_s, int | float) or not 0 < for_s < inf:
            problem = f"must be a number of seconds above 0, got {for_s!r}"
            raise SpecError([Mistake("open_breaker(for_s)", problem, "as in for_s=300")])
        engine = self.runtime.engine
        engine.health.open_breaker(name, engine.clock.now(), for_s)
        _LOG.warning("the breaker of %s was opened by hand for %g s", shown(name), for_s)

    def _deployment(self, name: str) -> str:
        """The name, if a deployment has it."""
        known = self.runtime.spec.deployments
        if name in known:
            return name
        raise SpecError([Mistake("deployment", f"no deployment is called {name!r}", suggest(name, known))])

    def __repr_args__(self) -> list[tuple[str | None, Any]]:
        """The chain, its tiers, and the breakers that are not closed; no setting, which may be a secret."""
        if "runtime" not in self.__dict__:  # Of a model that is being built.
            return []
        states = {name: state["breaker"] for name, state in self.state().items() if state["breaker"] != "closed"}
        tiers = [[member.name for member in tier.members] for tier in self._plan().tiers]
        return [("chain", self.chain), ("tiers", tiers), *([("breakers", states)] if states else [])]

    def _repr_html_(self) -> str:
        """What a notebook shows: the deployments of the chain, tier by tier, and how they are."""
        return chain_table(self._plan(), self.state())

    def batch_file(
        self,
        source: str | PathLike[str],
        target: str | PathLike[str],
        *,
        concurrency: int | Literal["auto"] = "auto",
        resume: bool = True,
        prompt: str | None = None,
        schema: Any = None,
        retry_failed: bool = False,
        config: RunnableConfig | None = None,
        **kwargs: Any,
    ) -> BatchResult:
        """Answer a file of any length, JSONL, CSV or Parquet by its suffix, and write a row for each of its rows.

        A row has a `prompt` or `messages`, unless `prompt` names another column. The target's row is that row with
        `row` (its number, from 0), `answer`, `llm_fallback` (the facts of the call) and, where it failed, `error`; rows
        come in the order in which they are answered. Answers are texts, or objects of `schema`, as
        `with_structured_output` takes it. `kwargs` are those of `invoke`.

        Killed at any moment and called again, it goes on where it was; `resume=False` begins the target anew. Rows that
        failed stay as they are unless `retry_failed`. A budget stops it, to be resumed. By `concurrency` "auto" as many
        rows are under way as bring more answers, found for each deployment without a `max_parallel` of its own.

        Raises BatchRefused, with nothing sent, if the source cannot be read, the target does not go with it, or another
        batch is writing there.
        """
        request = _batch_request(source, target, prompt, schema, concurrency, resume, retry_failed)
        return run_in_thread(self.batch_job(request, config, **kwargs))

    async def abatch_file(
        self,
        source: str | PathLike[str],
        target: str | PathLike[str],
        *,
        concurrency: int | Literal["auto"] = "auto",
        resume: bool = True,
        prompt: str | None = None,
        schema: Any = None,
        retry_failed: bool = False,
        config: RunnableConfig | None = None,
        **kwargs: Any,
    ) -> BatchResult:
        """Like batch_file. Cancelled, it leaves at once, to be resumed."""
        request = _batch_request(source, target, prompt, schema, concurrency, resume, retry_failed)
        return await self.batch_job(request, config, **kwargs).run()

    def batch_job(
        self,
        request: BatchRequest,
        config: RunnableConfig | None = None,
        *,
        on_progress: Callable[[Tally], None] = lambda tally: None,
        **kwargs: Any,
    ) -> BatchJob:
        """One run of a batch, for who wants to watch or stop it."""
        self._check_open()
        check_call(kwargs)
        chosen = self._chosen_chain(kwargs, ensure_config(config))
        answerer = self if request.schema is None else self.with_structured_output(request.schema, include_raw=True)
        engine = self.runtime.engine
        return BatchJob(
            request, answerer, self._plan(chosen), engine, config=config, words=kwargs, on_progress=on_progress
        )

    def estimate_batch(self, request: BatchRequest, **kwargs: Any) -> BatchEstimate:
        """What a batch would take, with nothing sent: each row that is left asked once, of the chain's first
        deployment. Source and target are checked as by `batch_file`."""
        words = {"max_tokens": getattr(self, "max_tokens", None), **kwargs}
        target = self._plan(self._chosen_chain(kwargs, ensure_config())).members[0].target
        return estimate(request, target, self.runtime.engine, words)

    def reload(self, spec: Source) -> None:
        """Answer by another spec from the next call on, in all copies of this model; running calls end by the old
        one, and deployments that stayed as they were keep their state. Settings that the model was built with hold for
        the new spec's chains, too. Raises SpecError and changes nothing if the new spec is wrong, or lacks this model's
        chain; RuntimeError if the model is closed."""
        self._check_open()
        renewed = read_spec(spec)
        renewed.chain_name(self.chain)
        self.runtime.reload(renewed)

    def close(self) -> None:
        """Close all connections, of every copy of this model too; a model that is closed answers no more."""
        self.runtime.close()

    async def aclose(self) -> None:
        """Like close, and wait until this event loop's connections are closed."""
        await self.runtime.aclose()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.aclose()

    def __deepcopy__(self, memo: dict[int, Any] | None = None) -> Self:
        return self.model_copy()

    def __reduce__(self) -> Any:
        name = type(self).__name__
        raise TypeError(f"a {name} holds connections and locks: build it in the worker from its spec, as a Recipe does")

    def with_structured_output(
        self,
        schema: Any,
        *,
        method: Any = "json_schema",
        include_raw: bool = False,
        strict: bool | None = None,
        **kwargs: Any,
    ) -> Runnable[LanguageModelInput, Any]:
        """LangChain's, and a reply that does not parse or validate counts as `rejected`: the next deployment
        is asked with the same request. Streamed replies are held until they are judged.

        With `include_raw`, when nobody's reply is of the form, the last one that came is handed over with the error;
        ChainExhausted is raised only if none came."""
        options = {"method": method, "strict": strict, **kwargs}
        trace_format = {"kwargs": {"method": method, "strict": strict}, "schema": convert_to_openai_tool(schema)}
        form = structured(super().with_structured_output(schema, **options), trace_format)
        strictly = self.model_copy(update={"structured": form})
        sequence = super(ChainChatModel, strictly).with_structured_output(schema, **options)
        return with_raw(sequence, form) if include_raw else sequence

    # LangChain's entries, overridden to pass its steps by where nobody listens, and to learn the run and the chain that
    # a config names. It hands no run manager to `_stream`, so who calls stands in `_caller` around the first step.

    def invoke(
        self,
        input: LanguageModelInput,
        config: RunnableConfig | None = None,
        *,
        stop: list[str] | None = None,
        chain: str | None = None,
        timeout: float | None = None,
        max_retries: int | None = None,
        **kwargs: Any,
    ) -> AIMessage:
        """A whole reply.

        `chain` asks another chain of the spec; so does `llm_fallback_chain` in `config["configurable"]`, or `chain`
        there, which is ignored with a warning where it names none. `timeout` in seconds and `max_retries` are
        `timeouts.total_s` and `retries.max` of this call. What else is given is a request parameter, over the model's
        own.

        Raises ChainExhausted when nobody answers, BudgetExceeded before the attempt that would cost too much, and
        SpecError for what may not be said in a call.
        """
        kwargs |= _given(stop=stop, chain=chain, timeout=timeout, max_retries=max_retries)
        config, kwargs = self._prepare_call(config, kwargs)
        caller = self._caller_from_config(config)
        with _calling_as(caller):
            messages = unheard_messages(self, caller, config, input) if is_plain_call(self, kwargs) else None
            if messages is None:
                return super().invoke(input, config, **kwargs)
            return message_of(self._generate(messages, **without_forms(kwargs)), config["run_id"])

    async def ainvoke(
        self,
        input: LanguageModelInput,
        config: RunnableConfig | None = None,
        *,
        stop: list[str] | None = None,
        chain: str | None = None,
        timeout: float | None = None,
        max_retries: int | None = None,
        **kwargs: Any,
    ) -> AIMessage:
        """Like invoke."""
        kwargs |= _given(stop=stop, chain=chain, timeout=timeout, max_retries=max_retries)
        config, kwargs = self._prepare_call(config, kwargs)
        caller = self._caller_from_config(config)
        with _calling_as(caller):
            messages = unheard_messages(self, caller, config, input) if is_plain_call(self, kwargs) else None
            if messages is None:
                return await super().ainvoke(input, config, **kwargs)
            return message_of(await self._agenerate(messages, **without_forms(kwargs)), config["run_id"])

    def stream(
        self,
        input: LanguageModelInput,
        config: RunnableConfig | None = None,
        *,
        stop: list[str] | None = None,
        chain: str | None = None,
        timeout: float | None = None,
        max_retries: int | None = None,
        **kwargs: Any,
    ) -> Iterator[AIMessageChunk]:
        """The reply in chunks, as they come; the last one carries the facts of the call. The keywords are invoke's.

        Raises what invoke does, and StreamBroken when the stream ends early after a part of it was delivered.
        """
        kwargs |= _given(stop=stop, chain=chain, timeout=timeout, max_retries=max_retries)
        config, kwargs = self._prepare_call(config, kwargs)
        caller, held_s, now = self._caller_from_config(config), 0.0, self.runtime.engine.clock.now
        messages = unheard_messages(self, caller, config, input) if is_plain_stream(self, kwargs) else None
        if messages is None:
            chunks = cast("Generator[AIMessageChunk, None, None]", super().stream(input, config, **kwargs))
        else:
            chunks = self._chunks(messages, caller, **without_forms(kwargs))
        try:
            with _calling_as(caller):
                chunk = next(chunks, None)
            while chunk is not None:
                # What LangChain does with a chunk keeps the caller waiting; what the caller does with it does not.
                given_at = now()
                yield chunk
                held_s += now() - given_at
                caller.held_s = held_s
                chunk = next(chunks, None)
        finally:
            chunks.close()

    async def astream(
        self,
        input: LanguageModelInput,
        config: RunnableConfig | None = None,
        *,
        stop: list[str] | None = None,
        chain: str | None = None,
        timeout: float | None = None,
        max_retries: int | None = None,
        **kwargs: Any,
    ) -> AsyncIterator[AIMessageChunk]:
        """Like stream."""
        kwargs |= _given(stop=stop, chain=chain, timeout=timeout, max_retries=max_retries)
        config, kwargs = self._prepare_call(config, kwargs)
        caller, held_s, now = self._caller_from_config(config), 0.0, self.runtime.engine.clock.now
        messages = unheard_messages(self, caller, config, input) if is_plain_stream(self, kwargs) else None
        if messages is None:
            answer = cast("AsyncGenerator[AIMessageChunk, None]", super().astream(input, config, **kwargs))
        else:
            answer = self._achunks(messages, caller, **without_forms(kwargs))
        async with aclosing(answer) as chunks:
            with _calling_as(caller):
                chunk = await anext(chunks, None)
            while chunk is not None:
                given_at = now()
                yield chunk
                held_s += now() - given_at
                caller.held_s = held_s
                chunk = await anext(chunks, None)

    def batch(
        self,
        inputs: list[LanguageModelInput],
        config: RunnableConfig | list[RunnableConfig] | None = None,
        *,
        return_exceptions: bool = False,
        stop: list[str] | None = None,
        chain: str | None = None,
        timeout: float | None = None,
        max_retries: int | None = None,
        **kwargs: Any,
    ) -> list[AIMessage]:
        """A reply to each input, several at a time (`config["max_concurrency"]`); the keywords are invoke's.

        With `return_exceptions` an input that failed has its exception in the list.
        """
        kwargs |= _given(stop=stop, chain=chain, timeout=timeout, max_retries=max_retries)
        return super().batch(inputs, config, return_exceptions=return_exceptions, **kwargs)

    async def abatch(
        self,
        inputs: list[LanguageModelInput],
        config: RunnableConfig | list[RunnableConfig] | None = None,
        *,
        return_exceptions: bool = False,
        stop: list[str] | None = None,
        chain: str | None = None,
        timeout: float | None = None,
        max_retries: int | None = None,
        **kwargs: Any,
    ) -> list[AIMessage]:
        """Like batch."""
        kwargs |= _given(stop=stop, chain=chain, timeout=timeout, max_retries=max_retries)
        return await super().abatch(inputs, config, return_exceptions=return_exceptions, **kwargs)

    def _prepare_call(
        self, config: RunnableConfig | None, kwargs: dict[str, Any]
    ) -> tuple[RunnableConfig, dict[str, Any]]:
        """The config with a run id, and the call's keywords with the chain it asks for as `model`, LangChain's word."""
        config = ensure_config(config)
        if config.get("run_id") is None:
            config["run_id"] = uuid4()
        check_call(kwargs)
        chosen = self._chosen_chain(kwargs, config)
        kwargs.pop("chain", None)
        if chosen is not None:
            kwargs["model"] = chosen
        narrowed = self.runtime.plan.zones(config.get("configurable", {}).get("zones"))
        if narrowed is not None:
            asked = self.runtime.plan.zones(kwargs.get("zones"))
            kwargs["zones"] = sorted(narrowed if asked is None else narrowed & asked)
        if self.structured is not None and self.structured.trace_format is not None:
            kwargs.setdefault("ls_structured_output_format", self.structured.trace_format)
        return config, kwargs

    def _caller_from_config(self, config: RunnableConfig) -> CallContext:
        tags = [*(config.get("tags") or ()), *(self.tags or ())]
        metadata = {**(config.get("metadata") or {}), **(self.metadata or {})}
        # Nothing here may hold the model: a kept-alive connection keeps the context it was opened in, and with it
        # the caller of its first request, for as long as it is open.
        handlers = partial(CallbackManager.configure, config.get("callbacks"), self.callbacks, self.verbose)
        known = config.get("configurable", {})
        thread = known.get("thread_id") or known.get("session_id")
        return CallContext(
            self.listeners, config["run_id"], tags, metadata, handlers, thread=thread, reader_is_timed=True
        )

    def _plan(self, chain: str | None = None) -> ChainPlan:
        """Of the chain, or of this model's own, which a reload by a copy of it may have taken away."""
        return self.runtime.state.plan.chain(chain or self.chain).within(self.zones)

    def _chosen_chain(self, words: Mapping[str, Any], config: RunnableConfig) -> str | None:
        """The chain that a call asks for by its words, of which `model` is LangChain's, or by its config; None: the
        model's own. ValueError naming the nearest for a name that is no chain, but for `chain` in a config."""
        known = config.get("configurable", {})
        name = words.get("chain") or words.get("model") or known.get("llm_fallback_chain")
        return self._chain_name(name) if name else self.runtime.configured_chain(known.get("chain"))

    def _chain_name(self, name: str) -> str:
        return self.runtime.state.plan.chain(name).name

    # Requests and what comes back.

    def _merged(self, defaults: Mapping[str, Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
        """A call's parameters over the model's, with the chain it asks for as `model`, LangChain's word."""
        check_call(kwargs)
        chosen = kwargs.get("chain") or kwargs.get("model") or self.chain
        return {**defaults, **kwargs, "model": self._chain_name(chosen)}

    def _ask(self, request: dict[str, Any], caller: CallContext) -> Answered:
        """One call through the chain for a whole reply."""
        execution = self._start(request, caller)
        for _ in drive(execution, caller):
            pass  # A whole reply has no chunks.
        return answered(execution)

    async def _aask(self, request: dict[str, Any], caller: CallContext) -> Answered:
        """Like `_ask`."""
        execution = self._start(request, caller)
        async for _ in adrive(execution, caller):
            pass
        return answered(execution)

    def _start(self, kwargs: dict[str, Any], caller: CallContext) -> CallExecution:
        """The call that merged kwargs ask for."""
        self._check_open()
        if self.runtime.fleet is not None:
            self.runtime.fleet.called()
        _, plan, engine = self.runtime.state
        chain = plan.chain(kwargs["model"])
        if self.zones is not None:
            chain = chain.within(self.zones)
        if "zones" in kwargs:
            chain = chain.within(plan.zones(kwargs["zones"]))
        return CallExecution(engine, to_call(kwargs, chain, self.structured, caller.spender(), caller.thread))

    def _check_open(self) -> None:
        if self.runtime.is_closed:
            raise RuntimeError("this model is closed; build another with build_chat_model")

    def _caller(self, run_manager: CallbackManagerForLLMRun | AsyncCallbackManagerForLLMRun | None) -> CallContext:
        known = _caller.get()
        if run_manager is None:
            return known or CallContext(self.listeners)
        return CallContext(
            self.listeners,
            run_manager.run_id,
            run_manager.tags,
            run_manager.metadata,
            lambda: run_manager.handlers,
            thread=known.thread if known else None,
        )

    def _request(self, messages: list[BaseMessage], stop: list[str] | None, kwargs: dict[str, Any]) -> dict[str, Any]:
        """The request for a whole reply: messages as they are sent, and merged parameters."""
        raise NotImplementedError

    def _stream_request(
        self, messages: list[BaseMessage], stop: list[str] | None, kwargs: dict[str, Any]
    ) -> dict[str, Any]:
        """The request for a stream; it asks for the usage, which prices the reply, unless the caller says otherwise."""
        options = {"include_usage": True} if self.stream_options is None else self.stream_options
        request = {"stream_options": options, **self._request(messages, stop, kwargs), "stream": True}
        return {name: value for name, value in request.items() if value is not None or name in kwargs}

    # ChatLiteLLM's names; its own look up logins, thoughts and endpoints on the way, which are the deployments' here.

    @_with_signature
    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        stream: bool | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        if self.streaming if stream is None else stream:
            return generate_from_stream(self._stream(messages, stop, run_manager, **kwargs))
        request = self._request(messages, stop, kwargs)
        return self._result(self._ask(request, self._caller(run_manager)), request)

    @_with_signature
    async def _agenerate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        stream: bool | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        if self.streaming if stream is None else stream:
            return await agenerate_from_stream(self._astream(messages, stop, run_manager, **kwargs))
        request = self._request(messages, stop, kwargs)
        return self._result(await self._aask(request, self._caller(run_manager)), request)

    def _result(self, answer: Answered, request: Mapping[str, Any]) -> ChatResult:
        return to_result(answer, several=(request.get("n") or 1) > 1)

    def _stream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> Iterator[ChatGenerationChunk]:
        for message in self._chunks(messages, self._caller(run_manager), stop=stop, **kwargs):
            chunk = ChatGenerationChunk(message=message)
            if run_manager:
                run_manager.on_llm_new_token(chunk.text, chunk=chunk)
            yield chunk

    async def _astream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> AsyncIterator[ChatGenerationChunk]:
        # Closed here, and not by the garbage collector: the request is to be dropped when the caller leaves.
        async with aclosing(self._achunks(messages, self._caller(run_manager), stop=stop, **kwargs)) as messages_:
            async for message in messages_:
                chunk = ChatGenerationChunk(message=message)
                if run_manager:
                    await run_manager.on_llm_new_token(chunk.text, chunk=chunk)
                yield chunk

    def _chunks(
        self, messages: list[BaseMessage], caller: CallContext, stop: list[str] | None = None, **kwargs: Any
    ) -> Generator[AIMessageChunk, None, None]:
        """One call through the chain, streamed."""
        return iter_chunks(self._start(self._stream_request(messages, stop, kwargs), caller), caller)

    def _achunks(
        self, messages: list[BaseMessage], caller: CallContext, stop: list[str] | None = None, **kwargs: Any
    ) -> AsyncGenerator[AIMessageChunk, None]:
        """Like `_chunks`."""
        return aiter_chunks(self._start(self._stream_request(messages, stop, kwargs), caller), caller)

    def _convert_cached_generations(self, cache_val: list[Generation]) -> list[ChatGeneration]:
        return super()._convert_cached_generations([as_cached(generation) for generation in cache_val])

    @property
    def _llm_type(self) -> str:
        return "llm-fallback"

    def _get_ls_params(self, stop: list[str] | None = None, **kwargs: Any) -> LangSmithParams:
        """For traces, which look prices up by it: the model of the chain's first deployment, as LangChain names it."""
        params = super()._get_ls_params(stop=stop, **kwargs)
        asked = kwargs.get("chain") or kwargs.get("model") or self.chain
        chain = self.runtime.state.plan.chains.get(asked)
        params["ls_model_name"] = asked if chain is None else chain.first_model
        return params

    def _combine_llm_outputs(self, llm_outputs: list[dict[str, Any] | None]) -> dict[str, Any]:
        """Of several replies at once; the name is there only if one model served them all."""
        combined = super()._combine_llm_outputs(llm_outputs)
        combined.pop("model_name", None)
        if len(llm_outputs) == 1:
            return {**combined, **(llm_outputs[0] or {})}
        names = {output["model_name"] for output in llm_outputs if output and "model_name" in output}
        return {**combined, "model_name": names.pop()} if len(names) == 1 else combined

    def get_token_ids(self, text: str) -> list[int]:
        """Of litellm's tokenizer, where it is on this machine; of the fake, and where it is not, made-up ones, one for
        about each token. Nothing is fetched."""
        if self.custom_get_token_ids is not None:
            return self.custom_get_token_ids(text)
        encode = self.runtime.adapter.encoder()
        return made_up_token_ids(text) if encode is None else encode(text)

    def get_num_tokens_from_messages(self, messages: list[BaseMessage], tools: Sequence[Any] | None = None) -> int:
        """About as many as a provider would count: texts and tools by `get_token_ids`, a picture as a page of text."""
        written = self._write(messages)
        documents = [convert_to_openai_tool(tool) for tool in tools or ()]
        return count_tokens(written, documents, self.get_num_tokens)

    def _write(self, messages: list[BaseMessage]) -> list[dict[str, Any]]:
        """The messages as they are sent."""
        raise NotImplementedError

    def _chain_identity(self) -> dict[str, Any]:
        """What tells a reply of this chain from others, for LangChain's cache and traces."""
        zones = {} if self.zones is None else {"zones": sorted(self.zones)}
        return {"chain": self.chain, "deployments": self._plan().models, **zones}


def fields_of(spec: Any, runtime: ModelRuntime | None, settings: Mapping[str, Any], adapter: Adapter) -> dict[str, Any]:
    """The fields of a model over a chain, from what its constructor was given.

    LangChain rebuilds models by their constructor from fields they have already (`configurable_fields`); those keep
    their runtime, and with it their state.
    """
    if runtime is None or runtime.source_spec is not spec:
        configured = configure(spec, settings)
        spec, runtime = configured.spec, ModelRuntime(configured.spec, adapter, configured.chain_settings)
        settings = {**configured.fields, "chain": configured.chain}
        if "zones" in settings:
            settings["zones"] = runtime.plan.zones(settings["zones"])
    name = settings.get("chain") or runtime.plan.default_chain
    listeners = tuple(settings.get("listeners", ()))
    return {**settings, "listeners": listeners, "spec": spec, "runtime": runtime, "chain": name, "model": name}


def _given(**words: Any) -> dict[str, Any]:
    """The words of a call that have a value."""
    return {word: value for word, value in words.items() if value is not None}


def _batch_request(
    source: str | PathLike[str],
    target: str | PathLike[str],
    prompt: str | None,
    schema: Any,
    concurrency: int | Literal["auto"],
    resume: bool,
    retry_failed: bool,
) -> BatchRequest:
    if concurrency != "auto" and (isinstance(concurrency, bool) or not isinstance(concurrency, int) or concurrency < 1):
        raise ValueError(f"concurrency must be 'auto' or a whole number from 1, got {concurrency!r}")
    return BatchRequest(Path(source), Path(target), prompt, schema, concurrency, resume, retry_failed)


def _key_question(target: Target) -> CallerQuestion:
    return CallerQuestion(target.credential.ask, is_fallible=True)


@contextmanager
def _calling_as(caller: CallContext) -> Iterator[None]:
    """Name who makes the call that is started inside. Around a first step only: a generator would leak it."""
    token = _caller.set(caller)
    try:
        yield
    finally:
        _caller.reset(token)
