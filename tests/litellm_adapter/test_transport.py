"""What calls of a deployment taught is known of that deployment, for as long as there is one."""

from __future__ import annotations

import gc
from typing import Any

import pytest

from llm_fallback import build_chat_model
from llm_fallback.litellm_adapter import direct
from llm_fallback.litellm_adapter.direct import DirectExchange
from llm_fallback.litellm_adapter.http_client import HTTPRequest
from llm_fallback.litellm_adapter.relayed import LiteLLMExchange
from llm_fallback.litellm_adapter.request import DeploymentRequest
from llm_fallback.litellm_adapter.templates import DeploymentMemory
from llm_fallback.litellm_adapter.translation import LeftToLiteLLM, NotTranslated, translate
from llm_fallback.testing import FakeServer
from tests.litellm_adapter.test_direct_and_relayed_alike import road_of


def spec_of(server: FakeServer, **deployment: Any) -> dict[str, Any]:
    """One deployment called a."""
    return server.spec(backend="openai-compatible", deployments={"a": deployment})


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


def sent_with(model_name: str, *calls: dict[str, Any]) -> list[tuple[dict[str, Any], list[str]]]:
    """Of each call: the sampling parameters that arrived, and those that the attempt says were dropped."""
    told = []
    with FakeServer({"a": "x"}) as server, build_chat_model(spec_of(server, model=model_name)) as model:
        for words in calls:
            [attempt] = model.invoke("hi", **words).response_metadata["llm_fallback"]["attempts"]
            body = server.received("a")[-1].body
            told.append(({name: body[name] for name in words if name in body}, attempt.get("dropped_params") or []))
    return told


def test_a_value_that_a_model_does_not_take_says_nothing_of_another():
    """o3 takes a temperature of 1, whatever it was asked with before; and each time anew, also from a template."""
    calls: list[dict[str, Any]] = [{"temperature": 0.3}, {"temperature": 1}] * 4
    assert sent_with("o3-mini", *calls) == [({}, ["temperature"]), ({"temperature": 1}, [])] * 4


def test_what_a_model_takes_only_beside_others_is_sent_beside_them():
    """GPT-5.1 takes a temperature while it does not think. Only that goes, not the effort by which litellm decides."""
    thinking = {"temperature": 0.3, "reasoning_effort": "high"}
    plain = {"temperature": 0.3, "reasoning_effort": "none"}
    effort = {"reasoning_effort": "high"}
    assert sent_with("gpt-5.1", thinking, plain, thinking, plain) == [
        (effort, ["temperature"]),
        (plain, []),
        (effort, ["temperature"]),
        (plain, []),
    ]


def test_what_was_learnt_of_parameters_is_bounded():
    """Though every request has another seed."""
    memory = DeploymentMemory()
    for seed in range(1000):
        memory.dropped_for({"seed": seed, "messages": []}).add("seed")
    assert len(memory.dropped) < 100


class Odd:
    """A litellm that does something else than send one request."""

    def __init__(self, error: type[Exception] = NotTranslated, model: str = "") -> None:
        self.error, self.model, self.times = error, model, 0

    async def __call__(self, wanted: DeploymentRequest, *others: Any) -> HTTPRequest:
        self.times += 1
        if wanted.target.model.endswith(self.model):
            raise self.error("odd")
        return await translate(wanted, *others)


async def test_what_is_left_to_litellm_is_so_for_one_model_only(monkeypatch):
    """Another one that has its name after a reload goes its own way."""
    monkeypatch.setattr(direct, "translate", Odd(model="odd"))
    with FakeServer({"a": "x"}) as server:
        with build_chat_model(spec_of(server, model="odd")) as model:
            roads = [await road_of(model, "a")]
            model.reload(spec_of(server))
            roads.append(await road_of(model, "a"))
    assert roads == [LiteLLMExchange, DirectExchange]


async def test_what_is_left_to_litellm_is_not_tried_again(monkeypatch):
    """Finding out costs as much as a call."""
    monkeypatch.setattr(direct, "translate", odd := Odd())
    with FakeServer({"a": "x"}) as server, build_chat_model(spec_of(server)) as model:
        assert [(await model.ainvoke("hi")).content for _ in range(3)] == ["x"] * 3
    assert odd.times == 1


async def test_a_request_of_a_kind_is_left_to_litellm_for_itself_alone(monkeypatch):
    """The next one of the deployment may be of another."""
    monkeypatch.setattr(direct, "translate", odd := Odd(LeftToLiteLLM))
    with FakeServer({"a": "x"}) as server, build_chat_model(spec_of(server)) as model:
        assert [(await model.ainvoke("hi")).content for _ in range(3)] == ["x"] * 3
        monkeypatch.undo()
        assert await road_of(model, "a") is DirectExchange
    assert odd.times == 3


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


def test_explain_tells_the_road_of_each_deployment():
    """Also of those that only a long prompt goes to."""
    spec = {
        "deployments": {
            "own": {"backend": "vllm", "model": "m", "api_base": "http://localhost:8000"},
            "hosted": {"model": "anthropic/claude-sonnet-4-5"},
            "other": {"model": "replicate/meta/meta-llama-3-8b-instruct"},
            "judged": {"model": "openai/gpt-4.1", "params": {"guardrails": ["pii"]}},
        },
        "chains": {"c": {"tiers": ["own", "hosted", "other"], "on_context_window": ["judged"]}},
    }
    with build_chat_model(spec) as model:
        roads = model.explain()["roads"]
    assert roads == {"own": "direct", "hosted": "direct", "other": "relayed", "judged": "relayed"}
