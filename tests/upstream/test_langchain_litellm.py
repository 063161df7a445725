"""langchain-litellm: the methods our chat model overrides, and what else it relies on in ChatLiteLLMRouter."""

from __future__ import annotations

import inspect
from typing import Any

import pytest
from langchain_core.language_models import BaseChatModel
from langchain_core.runnables import RunnableSequence
from langchain_litellm import ChatLiteLLMRouter
from pydantic import BaseModel

from llm_fallback import FallbackChatModel

WORDS = "messages stop run_manager **kwargs"
OVERRIDDEN = {
    "completion_with_retry": "run_manager **kwargs",
    "acompletion_with_retry": "run_manager **kwargs",
    "_merge_call_params": "params kwargs",
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


class NoRouter:
    """All that the constructor asks of a Router."""

    model_list = [{"model_name": "group"}]


def parameters_of(method: Any) -> str:
    """The names a method takes, as one line."""
    stars = {inspect.Parameter.VAR_KEYWORD: "**", inspect.Parameter.VAR_POSITIONAL: "*"}
    found = list(inspect.signature(method).parameters.values())[1:]
    return " ".join(stars.get(parameter.kind, "") + parameter.name for parameter in found)


@pytest.mark.parametrize("name", OVERRIDDEN)
def test_a_method_we_override_takes_what_ours_takes(name):
    """Renamed or re-ordered upstream, our override would never be called, or be called with something else."""
    assert parameters_of(getattr(ChatLiteLLMRouter, name)) == OVERRIDDEN[name]
    above = FallbackChatModel.__mro__[: FallbackChatModel.__mro__.index(ChatLiteLLMRouter)]
    assert any(name in vars(kind) for kind in above)


@pytest.mark.parametrize("name", ["_llm_type", "_identifying_params", "_default_params"])
def test_what_we_override_or_read_as_a_property_is_one(name):
    """LangChain's cache and LangSmith read these without calling them."""
    assert isinstance(inspect.getattr_static(ChatLiteLLMRouter, name), property)


def test_the_constructor_asks_a_router_only_for_its_model_list():
    """A stand-in gets us through it without building a Router, which leaves callbacks and prices behind."""
    model = ChatLiteLLMRouter(router=NoRouter())
    assert isinstance(model, BaseChatModel)
    assert model.model == "group"


class Person(BaseModel):
    name: str


@pytest.mark.parametrize("method", ["json_schema", "function_calling", "json_mode"])
def test_structured_output_is_a_sequence_of_the_model_and_its_parsers(method):
    """What follows the model in it is what judges a reply; `strict=None` is as good as none."""
    sequence = ChatLiteLLMRouter(router=NoRouter()).with_structured_output(Person, method=method, strict=None)
    assert isinstance(sequence, RunnableSequence)
    assert len(sequence.steps) >= 2
    assert isinstance(sequence.steps[0].bound, ChatLiteLLMRouter)
