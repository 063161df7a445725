"""What calls of a deployment taught is known of that deployment, for as long as there is one."""

from __future__ import annotations

import gc
from collections.abc import Mapping
from typing import Any

import pytest

from llm_fallback import build_chat_model
from llm_fallback.litellm_adapter import translation_cache
from llm_fallback.litellm_adapter.chat_model import FallbackChatModel
from llm_fallback.litellm_adapter.direct import DirectExchange
from llm_fallback.litellm_adapter.relayed import LiteLLMExchange
from llm_fallback.litellm_adapter.translation import HTTPRequest, NotTranslated, translate
from llm_fallback.testing import FakeServer

ASKED = {"messages": [{"role": "user", "content": "?"}]}


def spec_of(server: FakeServer, **deployment: Any) -> dict[str, Any]:
    """One deployment called a."""
    return server.spec(backend="openai-compatible", deployments={"a": deployment})


def way_of(model: FallbackChatModel) -> type:
    runtime = model.runtime
    return type(runtime.engine.transport.exchange(runtime.plan.targets["a"], ASKED, None))


def test_a_parameter_one_model_does_not_take_is_sent_to_another_of_the_same_name():
    """A reload puts another model in a deployment's place, and that takes a temperature."""
    with FakeServer({"a": "x"}) as server:
        with build_chat_model(spec_of(server, model="o3-mini"), temperature=0.3) as model:
            model.invoke("hi")
            model.reload(spec_of(server, model="gpt-4.1"))
            told = model.invoke("hi").response_metadata["llm_fallback"]["attempts"]
        bodies = [received.body for received in server.received("a")]
    assert [body.get("temperature") for body in bodies] == [None, 0.3]
    assert not told[0].get("dropped_params")


def test_what_is_left_to_litellm_is_so_for_one_model_only(monkeypatch):
    """Another one that has its name after a reload goes its own way."""

    def odd(words: Mapping[str, Any]) -> HTTPRequest:
        if words["model"].endswith("/odd"):
            raise NotTranslated("odd")
        return translate(words)

    monkeypatch.setattr(translation_cache, "translate", odd)
    with FakeServer({"a": "x"}) as server:
        with build_chat_model(spec_of(server, model="odd")) as model:
            ways = [way_of(model)]
            model.reload(spec_of(server))
            ways.append(way_of(model))
    assert ways == [LiteLLMExchange, DirectExchange]


def test_what_is_left_to_litellm_is_not_tried_again(monkeypatch):
    """Finding out costs as much as a call."""
    tried: list[str] = []

    def odd(words: Mapping[str, Any]) -> HTTPRequest:
        tried.append(words["model"])
        raise NotTranslated("odd")

    monkeypatch.setattr(translation_cache, "translate", odd)
    with FakeServer({"a": "x"}) as server, build_chat_model(spec_of(server)) as model:
        assert [way_of(model) for _ in range(3)] == [LiteLLMExchange] * 3
    assert len(tried) == 1


def test_another_deployment_of_the_same_name_is_asked_at_its_own_address():
    """After a reload the old one is not asked any more."""
    with FakeServer({"a": "from the old"}) as old, FakeServer({"a": "from the new"}) as new:
        with build_chat_model(spec_of(old)) as model:
            said = [model.invoke("hi").content for _ in range(3)]
            model.reload(spec_of(new))
            said += [model.invoke("hi").content for _ in range(3)]
    assert said == ["from the old"] * 3 + ["from the new"] * 3


@pytest.mark.parametrize("reloaded", ["same", "another"])
def test_of_a_deployment_that_is_no_more_nothing_stays_in_memory(reloaded):
    """Nor its key, which may have been taken back for a reason."""
    with FakeServer({"a": "x", "b": "y"}) as server:
        spec = server.spec(backend="vllm", deployments={"a": {"api_key": "sk-taken-back"}})
        with build_chat_model(spec) as model:
            for _ in range(3):
                model.invoke("hi")
            others = {name: own for name, own in spec["deployments"].items() if name != "a"}
            without = {**spec, "deployments": others, "chains": {"default": {"tiers": ["b"]}}}
            for _ in range(3):
                model.reload(spec if reloaded == "same" else without)
                model.invoke("hi")
            gc.collect()
            transport = model.runtime.engine.transport
            assert set(transport._memories) <= set(model.runtime.plan.targets.values())
