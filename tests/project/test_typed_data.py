"""The plain data a model tells of itself: what its types say is what stands there, no key more and none less."""

from __future__ import annotations

from typing import Any

import pytest
from langchain_core.caches import InMemoryCache
from pydantic import ConfigDict, TypeAdapter, with_config

from llm_fallback import (
    BudgetCallbackHandler,
    BudgetSnapshot,
    CallMetadata,
    CostCallbackHandler,
    CostSnapshot,
    DeploymentState,
    Explanation,
    LatencyCallbackHandler,
    LatencySnapshot,
    PingResult,
)
from llm_fallback.events import AttemptMetadata, SkipMetadata, StitchMetadata
from llm_fallback.testing import Cut, Fail, Reply, Stall, fake_chat_model
from tests.asking import MODES, ask

CLOSED = with_config(ConfigDict(extra="forbid", strict=True))
for kind in (CallMetadata, AttemptMetadata, SkipMetadata, StitchMetadata, DeploymentState, Explanation, PingResult):
    CLOSED(kind)


def as_typed(kind: Any, data: Any) -> Any:
    """The data, if it is what its type says."""
    return TypeAdapter(kind).validate_python(data)


@pytest.mark.parametrize(
    ("scripts", "spec"),
    [
        ({"a": "hello"}, {}),
        ({"a": Fail(429, retry_after=60), "b": "hello"}, {}),
        ({"a": [Cut(after_chunks=2)], "b": "and the rest"}, {"on_stream_break": "continue"}),
        ({"a": Stall(), "b": Reply("hello", usage=(3, 2))}, {}),
    ],
    ids=["answered", "skipped", "stitched", "timed out"],
)
def test_the_facts_of_a_call_are_call_metadata(scripts, spec):
    """Of the first call and of the second, which passes over whom the first one found throttled; plain and streamed."""
    model = fake_chat_model(scripts, **spec)
    for _ in range(2):
        as_typed(CallMetadata, model.invoke("hi").response_metadata["llm_fallback"])
        *_, last = model.stream("hi")
        as_typed(CallMetadata, last.response_metadata["llm_fallback"])


def test_the_facts_of_a_cached_reply_are_call_metadata():
    """It says so, and of no call."""
    model = fake_chat_model({"a": "hello"}, cache=InMemoryCache())
    model.invoke("hi")
    facts = as_typed(CallMetadata, model.invoke("hi").response_metadata["llm_fallback"])
    assert facts["cached"] is True


def test_what_a_model_tells_of_itself_is_typed():
    """Explanation, state and ping."""
    model = fake_chat_model({"a": Fail(500), "b": "hello"})
    model.invoke("hi")
    assert as_typed(Explanation, model.explain())["tiers"] == [["a"], ["b"]]
    assert as_typed(dict[str, DeploymentState], model.state())["a"]["failures"] == 1
    assert as_typed(dict[str, PingResult], model.ping())["a"]["failure"] == "server_error"


def test_what_handlers_tell_is_typed():
    """With the keys that a metadata key brings beside those that are always there."""
    cost, latency = CostCallbackHandler(by="tenant"), LatencyCallbackHandler(by="tenant")
    budget = BudgetCallbackHandler(1, per="tenant")
    fake_chat_model({"a": "hello"}).invoke("hi", {"callbacks": [cost, latency, budget], "metadata": {"tenant": "acme"}})
    for kind, handler in ((CostSnapshot, cost), (LatencySnapshot, latency), (BudgetSnapshot, budget)):
        snapshot = handler.snapshot()
        own = {key: value for key, value in snapshot.items() if key != "by_tenant"}
        assert as_typed(kind, own) == own
        assert set(own) == set(kind.__annotations__)
        assert list(snapshot["by"]["tenant"]) == ["acme"]
        assert snapshot["by_tenant"] == snapshot["by"]["tenant"]


@pytest.mark.parametrize("mode", MODES)
async def test_a_reply_names_the_served_model_and_never_the_chain(mode):
    """In `model_name` alone, the same in every way to ask: LangChain's usage handlers book by it."""
    model = fake_chat_model({"a": "hello"})
    reply = await ask(model, mode)
    assert (reply.response_metadata["model_name"], reply.response_metadata.get("model")) == ("a", None)
