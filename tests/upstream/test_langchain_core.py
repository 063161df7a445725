"""langchain-core: what it does with a chat model, and what made us override what we override."""

from __future__ import annotations

import ast
import inspect
from collections.abc import AsyncIterator, Iterator
from contextvars import ContextVar
from textwrap import dedent
from typing import Any
from uuid import uuid4

import pytest
from langchain_core import exceptions
from langchain_core.caches import InMemoryCache
from langchain_core.callbacks import BaseCallbackHandler, CallbackManager
from langchain_core.callbacks.manager import ahandle_event, handle_event
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, AIMessageChunk
from langchain_core.output_parsers import BaseLLMOutputParser, PydanticToolsParser
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult
from langchain_core.runnables import ConfigurableField, RunnableLambda, ensure_config
from langchain_core.runnables.config import var_child_runnable_config
from langchain_core.tracers.context import _configure_hooks
from langchain_core.utils._signature import _signature_parameters
from langchain_core.utils.function_calling import convert_to_openai_tool
from pydantic import BaseModel, PrivateAttr

from llm_fallback.chat_model import with_handlers

MARK: ContextVar[str] = ContextVar("mark", default="unset")


class Parrot(BaseChatModel):
    """A chat model that notes how LangChain calls it."""

    says_last: bool = False
    temperature: float = 0.0
    _managers: list[Any] = PrivateAttr(default_factory=list)
    _words: list[dict[str, Any]] = PrivateAttr(default_factory=list)
    _marks: list[str] = PrivateAttr(default_factory=list)

    @property
    def _llm_type(self) -> str:
        return "parrot"

    def _note(self, run_manager: Any, words: dict[str, Any]) -> None:
        self._managers.append(run_manager)
        self._words.append(words)
        self._marks.append(MARK.get())

    def _generate(self, messages: Any, stop: Any = None, run_manager: Any = None, **kwargs: Any) -> ChatResult:
        self._note(run_manager, kwargs)
        return ChatResult(generations=[ChatGeneration(message=AIMessage("hello"))])

    def _stream(
        self, messages: Any, stop: Any = None, run_manager: Any = None, **kwargs: Any
    ) -> Iterator[ChatGenerationChunk]:
        self._note(run_manager, kwargs)
        yield ChatGenerationChunk(message=AIMessageChunk("hel"))
        last = AIMessageChunk("lo", chunk_position="last") if self.says_last else AIMessageChunk("lo")
        yield ChatGenerationChunk(message=last)


class Heard(BaseCallbackHandler):
    def __init__(self) -> None:
        self.events: list[tuple[str, Any]] = []
        self.runs: list[Any] = []

    def on_chat_model_start(self, serialized: Any, messages: Any, *, run_id: Any, **kwargs: Any) -> None:
        self.runs.append(run_id)

    def on_custom_event(self, name: str, data: Any, *, run_id: Any, **kwargs: Any) -> None:
        self.events.append((name, data))


class TestCalls:
    async def test_a_stream_is_told_no_run(self):
        """Why `stream` and `astream` are overridden: `_stream` gets no run_manager, so the run is learned before."""
        model = Parrot()
        assert list(model.stream("hi"))
        assert [chunk async for chunk in model.astream("hi")]
        assert model._managers == [None, None]

    async def test_a_plain_call_is_told_its_run(self):
        """`_generate` finds run id and handlers of a plain call there."""
        model = Parrot()
        model.invoke("hi")
        await model.ainvoke("hi")
        assert all(manager.run_id for manager in model._managers)

    @pytest.mark.parametrize("streamed", [True, False])
    async def test_the_run_id_of_a_config_is_the_runs(self, streamed):
        """We choose the id before LangChain starts the run, and our events then belong to it."""
        heard, run_id = Heard(), uuid4()
        config: Any = {"callbacks": [heard], "run_id": run_id}
        if streamed:
            assert [chunk async for chunk in Parrot().astream("hi", config)]
        else:
            await Parrot().ainvoke("hi", config)
        assert heard.runs == [run_id]

    async def test_a_variable_set_around_the_first_step_is_seen_by_the_model(self):
        """The caller is handed to `_stream` by a ContextVar set around the first chunk only."""
        model = Parrot()
        token = MARK.set("set")
        try:
            next(model.stream("hi"))
            await anext(model.astream("hi"))
        finally:
            MARK.reset(token)
        assert model._marks == ["set", "set"]

    async def test_the_word_for_langsmith_does_not_reach_the_model(self):
        """`ls_structured_output_format` is LangChain's to trace; sent on, it would reach the provider."""
        model = Parrot()
        form = {"kwargs": {"method": "x"}, "schema": convert_to_openai_tool(Person)}
        model.invoke("hi", ls_structured_output_format=form)
        await model.ainvoke("hi", ls_structured_output_format=form)
        assert list(model.stream("hi", ls_structured_output_format=form))
        assert model._words == [{}, {}, {}]


class TestStepsOfAPlainCall:
    """What LangChain calls on the way of a plain call. `chat_model/without_handlers.py` says of each why a call
    of which no handler is told can do without, or does it itself, and `with_handlers.py` why one that tells handlers
    can: a step that is new here is to be looked at there."""

    @pytest.mark.parametrize("name", ["generate", "agenerate"])
    def test_what_is_done_for_a_batch(self, name):
        """Handlers, and content of older forms."""
        assert called_in(getattr(BaseChatModel, name)) - {"gather", "zip", "len", "isinstance", "enumerate"} == {
            *("pop", "_format_ls_structured_output", "_get_invocation_params", "_get_ls_params_with_defaults"),
            *("configure", "_filter_invocation_params_for_tracing", "_format_for_tracing", "on_chat_model_start"),
            *("_normalize_messages", f"_{name}_with_cache", "append", "_generate_response_from_error"),
            *("on_llm_error", "on_llm_end", "LLMResult", "_combine_llm_outputs", "RunInfo"),
        }

    @pytest.mark.parametrize("prefix", ["", "a"])
    def test_what_is_done_for_one_call(self, prefix):
        """Cache, rate limiter, streams for handlers, the message's id and metadata."""
        called = called_in(getattr(BaseChatModel, f"_{prefix}generate_with_cache"))
        assert {name.replace(f"_{prefix}", "_", 1) for name in called - SAME if name[0] == "_"} == {
            *("_generate", "_stream", "_iter_v2_events", "_replay_v2_events_for_cache_hit"),
        }
        assert {name for name in called if name[0] != "_"} - BUILT_IN == {
            *(f"{prefix}acquire", f"{prefix}lookup", f"{prefix}update", "get", "get_llm_cache", "model_copy", "dumps"),
            *("on_llm_new_token", "generate_from_stream", "ChatResult", "ChatGenerationChunk", "AIMessageChunk"),
            "AsyncChatModelStream" if prefix else "ChatModelStream",
        }

    @pytest.mark.parametrize("prefix", ["", "a"])
    def test_what_is_done_for_a_stream(self, prefix):
        """The same, without a cache, and what is told of each chunk."""
        assert called_in(getattr(BaseChatModel, f"{prefix}stream")) - BUILT_IN == {
            *("ensure_config", "_convert_input", "to_messages", "pop", "get", "_format_ls_structured_output"),
            *("_get_invocation_params", "_get_ls_params_with_defaults", "configure", "_should_stream", "join", "str"),
            *("_filter_invocation_params_for_tracing", "on_chat_model_start", "_format_for_tracing"),
            *(f"{prefix}acquire", "_normalize_messages", f"_{prefix}stream", f"{prefix}invoke"),
            *("_gen_info_and_msg_metadata", "_update_message_content_to_blocks", "AIMessageChunk"),
            *("on_llm_new_token", "ChatGenerationChunk", "merge_chat_generation_chunks", "LLMResult"),
            *("_generate_response_from_error", "on_llm_error", "on_llm_end"),
        }

    @pytest.mark.parametrize("prefix", ["", "a"])
    def test_what_is_done_around(self, prefix):
        """The config, and the input as messages."""
        assert called_in(getattr(BaseChatModel, f"{prefix}invoke")) == {
            *("_convert_input", f"{prefix}generate_prompt", "cast", "ensure_config", "get", "pop"),
        }
        assert called_in(getattr(BaseChatModel, f"{prefix}generate_prompt")) == {f"{prefix}generate", "to_messages"}

    def test_the_steps_that_are_taken_for_handlers_are_there(self):
        """By their private names; without one of them a call whose handlers listen takes all of LangChain's steps."""
        assert with_handlers._HAS_STEPS

    async def test_the_message_of_a_run_bears_its_id(self):
        """The id that ours writes where LangChain does not."""
        run_id = uuid4()
        assert (await Parrot().ainvoke("hi", {"run_id": run_id})).id == f"lc_run--{run_id}-0"

    def test_a_signature_that_a_method_brings_is_not_worked_out(self, monkeypatch):
        """LangChain asks for the signature of `_generate` at every call."""

        class Signed:
            def generate(self, run_manager: Any = None) -> None: ...

        Signed.generate.__signature__ = inspect.signature(Signed.generate)  # type: ignore[attr-defined]
        monkeypatch.setattr(inspect, "_signature_from_function", None)
        assert "run_manager" in _signature_parameters(Signed().generate)


SAME = {
    *("_gen_info_and_msg_metadata", "_get_llm_string", "_should_stream", "_should_use_protocol_streaming"),
    *("_signature_parameters", "_update_message_content_to_blocks", "_v3_generation", "_convert_cached_generations"),
}
BUILT_IN = {"append", "cast", "enumerate", "getattr", "isinstance", "iter", "len", "RuntimeError", "ValueError"}


def called_in(function: Any) -> set[str]:
    """The names of all that a function's source calls."""
    calls = [
        node.func for node in ast.walk(ast.parse(dedent(inspect.getsource(function)))) if isinstance(node, ast.Call)
    ]
    return {
        call.attr if isinstance(call, ast.Attribute) else call.id
        for call in calls
        if isinstance(call, ast.Attribute | ast.Name)
    }


class TestChunks:
    def test_an_empty_last_chunk_is_added_to_a_stream_that_has_none(self):
        """Why our last chunk says chunk_position="last": another behind it would not carry the facts."""
        assert [chunk.content for chunk in Parrot().stream("hi")] == ["hel", "lo", ""]
        assert [chunk.content for chunk in Parrot(says_last=True).stream("hi")] == ["hel", "lo"]

    def test_two_floats_do_not_merge(self):
        """Why the facts stand on one chunk alone."""
        with pytest.raises(TypeError):
            stamped(latency_s=0.1) + stamped(latency_s=0.2)

    def test_strings_are_concatenated(self):
        """Why `model_name` stands on one chunk alone."""
        assert (stamped(model_name="a") + stamped(model_name="a")).response_metadata["model_name"] == "aa"

    def test_facts_on_one_chunk_alone_come_through_as_they_are(self):
        """Nested data, None and floats of the last chunk are the merged message's."""
        facts = {"attempts": [{"cost_usd": 0.1, "failure": None}], "latency_s": 0.1}
        merged = AIMessageChunk("a") + AIMessageChunk("b") + stamped(llm_fallback=facts)
        assert merged.response_metadata["llm_fallback"] == facts

    @pytest.mark.parametrize(
        ("arguments", "parsed", "invalid"),
        [('{"a": 12}', [{"a": 12}], 0), ("no JSON", [], 1), ('{"a": 1', [{"a": 1}], 0)],
        ids=["whole", "none", "half"],
    )
    def test_a_last_chunk_parses_its_tool_calls_and_mends_half_ones(self, arguments, parsed, invalid):
        """A message built from chunks takes half of the arguments for all of them, where a plain reply's are
        invalid: whoever judges a reply must not rely on `invalid_tool_calls` alone."""
        call: Any = {"type": "tool_call_chunk", "index": 0, "id": "1", "name": "f", "args": arguments}
        chunk = AIMessageChunk("", tool_call_chunks=[call], chunk_position="last")
        assert [found["args"] for found in chunk.tool_calls] == parsed
        assert len(chunk.invalid_tool_calls) == invalid


def stamped(**metadata: Any) -> AIMessageChunk:
    return AIMessageChunk("", response_metadata=metadata)


class TestEvents:
    async def test_a_custom_event_can_be_handed_to_the_handlers_of_a_run(self):
        """`dispatch_custom_event` needs a parent run; handle_event and ahandle_event only handlers and a run id."""
        heard = Heard()
        event = ("on_custom_event", "ignore_custom_event", "llm_fallback.fell_back", {"to": "b"})
        handle_event([heard], *event, run_id=uuid4(), tags=[], metadata={})
        await ahandle_event([heard], *event, run_id=uuid4(), tags=[], metadata={})
        assert heard.events == [("llm_fallback.fell_back", {"to": "b"})] * 2

    def test_the_handlers_of_a_run_can_be_found_without_starting_one(self):
        """`CallbackManager.configure` takes the config's and the model's callbacks in this order."""
        mine, models = Heard(), Heard()
        found = CallbackManager.configure([mine], [models], False, ["tag"], None)
        assert mine in found.handlers
        assert models in found.handlers
        assert found.tags == ["tag"]


class TestHooks:
    def test_a_hook_is_asked_for_a_handler_whenever_a_run_begins_and_children_inherit_it(self):
        """How an outermost run comes to a handler of its own: what the hook brings is added where no other of its
        class is."""
        made: list[BaseCallbackHandler] = []

        class RuntimeState(BaseCallbackHandler):
            pass

        class Fresh:
            def get(self) -> RuntimeState:
                made.append(RuntimeState())
                return made[-1]

        hook: Any = (Fresh(), True, RuntimeState, None)
        _configure_hooks.append(hook)
        try:
            first, second = (CallbackManager.configure() for _ in range(2))
            child = CallbackManager.configure(first.on_chain_start({}, {}).get_child())
        finally:
            _configure_hooks.remove(hook)
        standing = [
            [one for one in found.handlers if isinstance(one, RuntimeState)] for found in (first, second, child)
        ]
        assert [len(found) for found in standing] == [1, 1, 1]
        assert standing[0] == standing[2] != standing[1]

    def test_the_config_around_a_step_is_in_a_context_variable(self):
        """Where handlers of a model find the run it is asked in; outside of any there is none."""
        around: list[Any] = []
        RunnableLambda(lambda _: around.append(var_child_runnable_config.get())).invoke("x")
        assert around[0]["callbacks"].parent_run_id is not None
        assert var_child_runnable_config.get() is None


class TestConfig:
    def test_ensure_config_fills_in_and_copies(self):
        """`_entered` writes a run id into what it returns, which must not be the caller's own dict."""
        given: Any = {"tags": ["a"]}
        config = ensure_config(given)
        config["run_id"] = uuid4()
        assert given == {"tags": ["a"]}
        assert {"tags", "metadata", "callbacks", "configurable"} <= set(config)
        assert ensure_config(None)["metadata"] == {}

    def test_ensure_config_knows_the_run_around_it(self):
        """A model asked within a chain without a config belongs to the chain's run, with its tags and chain."""
        around: list[Any] = []
        RunnableLambda(lambda _: around.append(ensure_config())).invoke(
            "x", {"tags": ["outer"], "configurable": {"chain": "cheap"}}
        )
        assert around[0]["tags"] == ["outer"]
        assert around[0]["configurable"]["chain"] == "cheap"

    def test_a_configured_model_is_built_by_its_constructor_from_its_fields(self):
        """Why all state is in fields: `configurable_fields` builds anew, and what is private is lost."""
        model = Parrot(says_last=True)
        model._words.append({"state": 1})
        configurable = model.configurable_fields(temperature=ConfigurableField(id="temperature"))
        prepared, _ = configurable.prepare({"configurable": {"temperature": 0.7}})
        assert isinstance(prepared, Parrot)
        assert (prepared.temperature, prepared.says_last) == (0.7, True)
        assert prepared._words == []

    def test_replies_from_a_cache_come_by_one_method(self):
        """Overridden to say of a reply that it is from there; the cache hands out what it holds itself."""
        seen: list[Any] = []

        class Noting(Parrot):
            def _convert_cached_generations(self, cache_val: list[Any]) -> list[Any]:
                seen.extend(cache_val)
                return super()._convert_cached_generations(cache_val)

        cache = InMemoryCache()
        model = Noting(cache=cache)
        model.invoke("hi")
        assert not seen
        model.invoke("hi")
        [held] = cache._cache.values()
        assert seen == list(held)

    def test_a_copy_of_a_model_shares_what_its_fields_hold(self):
        """`with_chain` and `bind_tools` copy the model; breakers and limits are the same afterwards."""
        held: list[Any] = []
        model = Parrot(metadata={"held": held})
        assert model.model_copy(update={"temperature": 1.0}).metadata["held"] is held


class Person(BaseModel):
    name: str


class TestParsing:
    def test_a_parser_judges_a_message_without_a_run(self):
        """`parse_result` shows up in no trace, as judging a reply must not."""
        assert issubclass(PydanticToolsParser, BaseLLMOutputParser)
        call: Any = {"name": "Person", "args": {"name": "Ada"}, "id": "1", "type": "tool_call"}
        parser = PydanticToolsParser(tools=[Person], first_tool_only=True)
        message = AIMessage("", tool_calls=[call])
        assert parser.parse_result([ChatGeneration(message=message)]) == Person(name="Ada")


RETRYABLE = ("ModelRateLimitError", "ModelAPIError", "ModelConnectionError", "ModelTimeoutError")
FINAL = (
    *("ModelAuthenticationError", "ModelPermissionDeniedError", "ModelInvalidRequestError"),
    *("ModelNotFoundError", "ContextOverflowError"),
)


class TestErrors:
    @pytest.mark.parametrize("name", [*RETRYABLE, *FINAL])
    def test_our_errors_have_these_classes_to_be(self, name):
        """ChainExhausted is one of them, so that code written against LangChain's classes keeps working."""
        assert issubclass(getattr(exceptions, name), exceptions.ModelError)

    @pytest.mark.parametrize("name", RETRYABLE)
    def test_these_ask_to_be_retried(self, name):
        """Why ours say `is_retryable = False`: a middleware would multiply the requests of a chain that is through."""
        assert getattr(exceptions, name).is_retryable is True

    def test_retrying_middleware_asks_the_error(self):
        """`is_retryable` is what ModelRetryMiddleware reads; were it another word, it would repeat our chains."""
        from langchain.agents.middleware import _retry

        assert "is_retryable" in inspect.getsource(_retry)


async def test_an_async_generator_model_is_closed_when_its_reader_leaves():
    """An early `break` reaches our driver as GeneratorExit, and the request is hung up at once."""
    closed: list[str] = []

    class Endless(Parrot):
        async def _astream(
            self, messages: Any, stop: Any = None, run_manager: Any = None, **kwargs: Any
        ) -> AsyncIterator[ChatGenerationChunk]:
            try:
                while True:
                    yield ChatGenerationChunk(message=AIMessageChunk("x"))
            finally:
                closed.append("closed")

    stream: Any = Endless().astream("hi")
    await anext(stream)
    await stream.aclose()
    assert closed == ["closed"]


def test_init_chat_model_takes_no_provider_that_it_does_not_know():
    """So there is no name of ours for it: its list is closed, and docs/langchain-integration.md says so."""
    from langchain.chat_models import init_chat_model

    with pytest.raises(ValueError, match="Unsupported provider='llm_fallback'"):
        init_chat_model("assistant", model_provider="llm_fallback")
