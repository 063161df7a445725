"""langchain-litellm: the methods our chat model overrides, and what the rest of ChatLiteLLMRouter does with them."""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessageChunk, HumanMessage
from langchain_core.runnables import RunnableSequence
from langchain_litellm import ChatLiteLLMRouter
from litellm.types.utils import ModelResponse
from pydantic import BaseModel, PrivateAttr

from llm_fallback import FallbackChatModel
from llm_fallback.chat_model.base import ChainChatModel

WORDS = "messages stop run_manager **kwargs"
OVERRIDDEN = {
    "completion_with_retry": "run_manager **kwargs",
    "acompletion_with_retry": "run_manager **kwargs",
    "_merge_call_params": "params kwargs",
    "_create_chat_result": "response **params",
    "_stream": WORDS,
    "_astream": WORDS,
    "_reachable_groups": "params",
    "_is_claude_model": "",
    "_thinking_refuses_forced_tools": "overrides",
    "with_structured_output": "schema method include_raw strict **kwargs",
    "invoke": "input config stop **kwargs",
    "ainvoke": "input config stop **kwargs",
    "stream": "input config stop **kwargs",
    "astream": "input config stop **kwargs",
}
CHUNKS: list[dict[str, Any]] = [
    {"choices": [{"delta": {"role": "assistant", "content": "Hel"}}]},
    {"choices": [{"delta": {"content": "lo"}, "finish_reason": "stop"}]},
    {"choices": [], "usage": {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3}},
    {"choices": [{"delta": {"role": "assistant"}}], "provider_specific_fields": {"facts": {"n": 1}}},
]
REPLY = ModelResponse(choices=[{"message": {"role": "assistant", "content": "Hello"}, "finish_reason": "stop"}])


class NoRouter:
    """All that the constructor asks of a Router."""

    model_list = [{"model_name": "group"}]


class Scripted(ChatLiteLLMRouter):
    """A ChatLiteLLMRouter whose requests are answered here, as ours are answered by the engine."""

    _asked: list[dict[str, Any]] = PrivateAttr(default_factory=list)
    _managers: list[Any] = PrivateAttr(default_factory=list)

    def completion_with_retry(self, run_manager: Any = None, **kwargs: Any) -> Any:
        self._asked.append(kwargs)
        self._managers.append(run_manager)
        return iter(CHUNKS) if kwargs.get("stream") else REPLY

    async def acompletion_with_retry(self, run_manager: Any = None, **kwargs: Any) -> Any:
        answer = self.completion_with_retry(run_manager, **kwargs)
        return _each(answer) if isinstance(answer, Iterator) else answer

    def _reachable_groups(self, params: Any) -> None:
        return None


async def _each(items: Iterator[Any]) -> AsyncIterator[Any]:
    for item in items:
        yield item


def parameters_of(method: Any) -> str:
    """The names a method takes, as one line."""
    stars = {inspect.Parameter.VAR_KEYWORD: "**", inspect.Parameter.VAR_POSITIONAL: "*"}
    found = list(inspect.signature(method).parameters.values())[1:]
    return " ".join(stars.get(parameter.kind, "") + parameter.name for parameter in found)


@pytest.mark.parametrize("name", OVERRIDDEN)
def test_a_method_we_override_takes_what_ours_takes(name):
    """Renamed or re-ordered upstream, our override would never be called, or be called with something else."""
    assert parameters_of(getattr(ChatLiteLLMRouter, name)) == OVERRIDDEN[name]
    assert any(name in vars(kind) for kind in (FallbackChatModel, ChainChatModel))


@pytest.mark.parametrize("name", ["_llm_type", "_identifying_params", "_default_params"])
def test_what_we_override_or_read_as_a_property_is_one(name):
    """LangChain's cache and LangSmith read these without calling them."""
    assert isinstance(inspect.getattr_static(ChatLiteLLMRouter, name), property)


def test_the_constructor_asks_a_router_only_for_its_model_list():
    """A stand-in gets us through it without building a Router, which leaves callbacks and prices behind."""
    model = Scripted(router=NoRouter())
    assert isinstance(model, BaseChatModel)
    assert model.model == "group"


async def both(model: Scripted) -> list[list[Any]]:
    """What `_stream` and `_astream` make of the same chunks."""
    messages: list[Any] = [HumanMessage("hi")]
    return [list(model._stream(messages)), [chunk async for chunk in model._astream(messages)]]


async def test_a_chunks_own_provider_specific_fields_reach_its_response_metadata():
    """This is the way by which the facts of a call come to `_finish_chunk`."""
    for chunks in await both(Scripted(router=NoRouter())):
        assert chunks[-1].message.response_metadata["provider_specific_fields"] == {"facts": {"n": 1}}


async def test_the_name_of_the_model_stands_on_the_first_chunk_alone():
    """`_finish_chunk` takes it off there and puts the true one on the last; on two chunks it would be doubled."""
    for chunks in await both(Scripted(router=NoRouter())):
        named = ["model_name" in chunk.message.response_metadata for chunk in chunks]
        assert named == [True, False, False, False]


async def test_every_raw_chunk_with_something_in_it_becomes_one_chunk():
    """Pieces come out in their order and one by one, text, usage and our last chunk too."""
    for chunks in await both(Scripted(router=NoRouter())):
        assert [chunk.text for chunk in chunks] == ["Hel", "lo", "", ""]
        assert all(isinstance(chunk.message, AIMessageChunk) for chunk in chunks)
        assert chunks[2].message.usage_metadata["total_tokens"] == 3


async def test_a_request_comes_to_the_seam_with_its_words_merged():
    """`completion_with_retry` gets messages as dicts, the model's name, the call's words and an empty metadata slot
    that belongs to a Router; ours sorts them."""
    model = Scripted(router=NoRouter(), temperature=0.5)
    model.invoke("hi", top_p=0.1, stop=["x"])
    (words,) = model._asked
    assert words["messages"] == [{"role": "user", "content": "hi"}]
    expected = {"model": "group", "temperature": 0.5, "top_p": 0.1, "stop": ["x"], "metadata": {}}
    assert {name: words.get(name) for name in expected} == expected
    assert not words.get("stream")


async def test_a_stream_comes_to_the_seam_with_stream_and_usage_asked_for():
    """`stream` tells the adapter what to return; usage is what prices a streamed reply."""
    model = Scripted(router=NoRouter())
    await both(model)
    assert [words["stream"] for words in model._asked] == [True, True]
    assert [words["stream_options"] for words in model._asked] == [{"include_usage": True}] * 2


async def test_the_run_manager_comes_to_the_seam():
    """Plain calls learn their run from it."""
    model = Scripted(router=NoRouter())
    model.invoke("hi")
    await model.ainvoke("hi")
    assert all(manager is not None for manager in model._managers)


async def test_the_seam_is_asked_once_per_call():
    """litellm's Router would repeat there; whoever repeats outside of our engine would multiply its requests."""
    model = Scripted(router=NoRouter())
    await model.ainvoke("hi")
    assert len(model._asked) == 1


def test_a_plain_result_is_made_of_the_reply_with_langchains_metadata():
    """`_create_chat_result` names the group as the model, which ours overwrites."""
    result = Scripted(router=NoRouter())._create_chat_result(REPLY)
    message = result.generations[0].message
    assert message.content == "Hello"
    assert message.response_metadata["model_name"] == "group"
    assert isinstance(result.llm_output["token_usage"], BaseModel)


class Person(BaseModel):
    name: str


@pytest.mark.parametrize("method", ["json_schema", "function_calling", "json_mode"])
def test_structured_output_is_a_sequence_of_the_model_and_its_parsers(method):
    """What follows the model in it is what judges a reply; `strict=None` is as good as none."""
    sequence = Scripted(router=NoRouter()).with_structured_output(Person, method=method, strict=None)
    assert isinstance(sequence, RunnableSequence)
    assert len(sequence.steps) >= 2
    assert isinstance(sequence.steps[0].bound, Scripted)
