"""A model over a chain and what it holds: its fields, and what an operator may ask of it besides answers."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from contextvars import copy_context
from math import inf
from typing import TYPE_CHECKING, Any, ClassVar, Self, cast

from langchain_core.language_models import BaseChatModel
from langchain_core.messages import BaseMessage
from langchain_core.runnables import RunnableConfig
from pydantic import Field, ValidationError, model_validator

from llm_fallback.chat_model.caller import Listener
from llm_fallback.chat_model.chain_table import chain_table
from llm_fallback.chat_model.driver import aanswer_question, answer_question
from llm_fallback.chat_model.lazy_field import LazyField
from llm_fallback.chat_model.model_state import ModelState
from llm_fallback.chat_model.portal import portal
from llm_fallback.chat_model.runtime import Adapter, ModelRuntime
from llm_fallback.chat_model.structured import OutputFormat
from llm_fallback.engine.engine import CallerQuestion
from llm_fallback.engine.health import DeploymentState
from llm_fallback.engine.ping import TIMEOUT_S, PingResult
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
from llm_fallback.spec.overrides import configure, read_spec
from llm_fallback.spec.shown import shown

if TYPE_CHECKING:
    from langchain_core.language_models.chat_models import _ChatModelBinding

logger = logging.getLogger("llm_fallback")

_PROFILE = LazyField("profile", lambda model: chain_profile(model._plan(), model.runtime.engine.catalogue.profile))


class ManagedChatModel(BaseChatModel):
    """A chat model with a runtime: state, breakers, pings, another spec, closing."""

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
        raise SpecError(mistakes, "arguments")

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

    def state(self) -> ModelState:
        """What is known of each deployment now, as plain data; with a fleet, under `fleet`, how that stands."""
        known: dict[str, Any] = {**self._deployment_states()}
        if self.runtime.fleet is not None:
            known["fleet"] = self.runtime.fleet.member.snapshot()
        return cast("ModelState", known)

    def _deployment_states(self) -> Mapping[str, DeploymentState]:
        return self.runtime.engine.health.snapshot(self.runtime.engine.clock.now())

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
        pings = {ping["deployment"]: ping async for ping in self.runtime.pings(targets, keys, timeout_s)}
        return {target.name: pings[target.name] for target in targets}

    def _targets(self, chain: str | None) -> list[Target]:
        self._check_open()
        plan = self.runtime.plan
        chains = [plan.chain(name).within(self.zones) for name in (plan.chains if chain is None else [chain])]
        return list({member.name: member.target for chain_plan in chains for member in chain_plan.members}.values())

    def reset_breaker(self, deployment: str) -> None:
        """Close the breaker of a deployment that is known to be well again, for all copies of this model; the next call
        may ask it. Raises SpecError for a deployment that there is not."""
        self.runtime.engine.health.reset_breaker(self._deployment(deployment))
        logger.info("the breaker of %s was closed by hand", shown(deployment))

    def open_breaker(self, deployment: str, for_s: float) -> None:
        """Ask a deployment nothing for so many seconds, in all copies of this model: it is about to be restarted, say.
        Requests under way go on; after that time one request finds out whether it answers. Raises SpecError for a
        deployment that there is not, and for a time that is none."""
        name = self._deployment(deployment)
        if isinstance(for_s, bool) or not isinstance(for_s, int | float) or not 0 < for_s < inf:
            problem = f"must be a number of seconds above 0, got {for_s!r}"
            raise SpecError([Mistake("open_breaker(for_s)", problem, "as in for_s=300")], "arguments")
        engine = self.runtime.engine
        engine.health.open_breaker(name, engine.clock.now(), for_s)
        logger.warning("the breaker of %s was opened by hand for %g s", shown(name), for_s)

    def _deployment(self, name: str) -> str:
        """The name, if a deployment has it."""
        known = self.runtime.spec.deployments
        if name in known:
            return name
        raise SpecError([Mistake("deployment", f"no deployment is called {name!r}", suggest(name, known))], "arguments")

    def __repr_args__(self) -> list[tuple[str | None, Any]]:
        """The chain, its tiers, and the breakers that are not closed; no setting, which may be a secret."""
        if "runtime" not in self.__dict__:  # Of a model that is being built.
            return []
        states = {
            name: state["breaker"] for name, state in self._deployment_states().items() if state["breaker"] != "closed"
        }
        tiers = [[member.name for member in tier.members] for tier in self._plan().tiers]
        return [("chain", self.chain), ("tiers", tiers), *([("breakers", states)] if states else [])]

    def __str__(self) -> str:
        return repr(self)

    def _repr_html_(self) -> str:
        """What a notebook shows: the deployments of the chain, tier by tier, and how they are."""
        return chain_table(self._plan(), self._deployment_states())

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

    def _plan(self, chain: str | None = None) -> ChainPlan:
        """Of the chain, or of this model's own, which a reload by a copy of it may have taken away."""
        return self.runtime.state.plan.chain(chain or self.chain).within(self.zones)

    def _chosen_chain(self, words: Mapping[str, Any], config: RunnableConfig) -> str | None:
        """The chain that a call asks for by its words, of which `model` is LangChain's, or by its config; None: the
        model's own. ValueError naming the nearest for a name that is no chain, but for `chain` in a config."""
        known = config.get("configurable", {})
        name = words.get("chain") or words.get("model") or known.get("llm_fallback_chain")
        word = "model" if words.get("model") and not words.get("chain") else "chain"
        return self._chain_name(name, word) if name else self.runtime.configured_chain(known.get("chain"))

    def _chain_name(self, name: str, word: str = "chain") -> str:
        return self.runtime.state.plan.chain(name, word).name

    def _write(self, messages: list[BaseMessage]) -> list[dict[str, Any]]:
        """The messages as they are sent."""
        raise NotImplementedError

    def _check_open(self) -> None:
        if self.runtime.is_closed:
            raise RuntimeError("this model is closed; build another with build_chat_model")

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


def _key_question(target: Target) -> CallerQuestion:
    return CallerQuestion(target.credential.ask, is_fallible=True)
