"""A user's program, as careful as can be: mypy --strict and pyright's strict mode have nothing to say about it."""

from __future__ import annotations

from collections.abc import Iterator
from decimal import Decimal
from typing import assert_type

from langchain_core.messages import AIMessage, AIMessageChunk
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.runnables import Runnable
from langchain_core.tools import tool
from pydantic import BaseModel

from llm_fallback import (
    AttemptMetadata,
    BudgetCallbackHandler,
    CallEnded,
    CallMetadata,
    ChainExhausted,
    CostCallbackHandler,
    DeploymentState,
    Event,
    Failure,
    FallbackChatModel,
    FleetStatus,
    ModelOptions,
    ModelState,
    PingResult,
    SpecDict,
    StreamBroken,
    build_chat_model,
    build_runnables,
    get_cost_callback,
    load_spec,
)
from llm_fallback.testing import Fail, FakeServer, Stall, assert_attempts, fake_chat_model

SPEC: SpecDict = {
    "defaults": {"timeouts": {"total_s": 30, "attempt_s": None}, "breaker": "off"},
    "deployments": {
        "own": {
            "backend": "vllm",
            "model": "Qwen/Qwen3-32B",
            "api_base": "http://localhost:8000",
            "price": {"input_per_million": Decimal("0.2"), "output_per_million": 0.2},
            "profile": {"tool_calling": True},
            "limits": {"rpm": 600},
        },
        "hosted": {"model": "anthropic/claude-sonnet-4-5", "api_key": lambda: "sk-none", "price": "free"},
    },
    "chains": {
        "assistant": {"tiers": ["own", ["hosted"]], "retries": {"max": 1}, "hedge": {"after_s": "p95"}},
        "careful": {"tiers": ["hosted"], "on_stream_break": "hold"},
    },
    "default_chain": "assistant",
}
QUIET: ModelOptions = {"temperature": 0, "tags": ["night"], "timeouts": {"total_s": 5}}


def is_short(reply: AIMessage) -> bool:
    return len(reply.text) < 1000


def told(event: Event) -> None:
    if isinstance(event, CallEnded) and event.failure is not None:
        print(event.chain, event.record.cost_usd)


def build() -> FallbackChatModel:
    by_constructor = FallbackChatModel(spec=SPEC, chain="careful", temperature=0)
    by_constructor.close()
    build_chat_model(load_spec("base.yaml", "prod.yaml"), **QUIET).close()
    build_chat_model(["anthropic/claude-sonnet-4-5", "openai:gpt-4.1"], timeout=20, max_retries=1).close()
    return build_chat_model(
        SPEC,
        chain="assistant",
        listeners=[told],
        accept=is_short,
        budget={"usd_per_call": 0.05},
        metadata={"tenant": "acme"},
        model_kwargs={"top_a": 0.3},
    )


def ask(model: FallbackChatModel) -> str:
    reply = model.invoke("hi", chain="careful", timeout=3, max_retries=0, stop=["\n"], temperature=0.5)
    assert_type(reply, AIMessage)
    facts: CallMetadata = reply.response_metadata["llm_fallback"]
    for attempt in facts["attempts"]:
        explain_failure(attempt)
    if facts["cost_usd"] is not None and facts.get("cached") is None:
        print(facts["cost_usd"] + 0.0)
    replies: list[AIMessage] = model.batch(["a", "b"], {"max_concurrency": 2}, timeout=4)
    print(len(replies))
    return reply.text


class Place(BaseModel):
    city: str


@tool
def weather(city: str) -> str:
    """The weather in a city."""
    return f"sunny in {city}"


def act(model: FallbackChatModel) -> str:
    assert_type(model.bind_tools([weather, Place], tool_choice="weather").invoke("hi"), AIMessage)
    assert_type(model.bind_tools([{"type": "function"}]).invoke("hi"), AIMessage)
    assert_type(model.with_structured_output(Place).invoke("hi"), Place)
    model.with_structured_output({"title": "place", "type": "object"}).invoke("hi")
    model.with_structured_output(Place, include_raw=True).invoke("hi")
    return model.with_structured_output(Place, method="function_calling").invoke("hi").city


def explain_failure(attempt: AttemptMetadata) -> None:
    failure: Failure | None = attempt["failure"]
    if failure == "rate_limited" and attempt["outcome"] == "failed":
        print(attempt["deployment"], attempt["status"])


async def aask(model: FallbackChatModel) -> None:
    chunks: list[AIMessageChunk] = [chunk async for chunk in model.astream("hi", chain="careful", timeout=3)]
    print(len(chunks), (await model.ainvoke("hi", timeout=2)).text, await model.abatch(["a"], chain="careful"))


def watch(model: FallbackChatModel) -> Iterator[str]:
    state: ModelState = model.state()
    if state["own"]["breaker"] == "half_open":
        yield f"{state['own']['failures']} failures"
    deployments: dict[str, DeploymentState] = state
    for name, deployment in deployments.items():
        yield f"{name} {deployment['in_flight'] + 1}"
    fleet: FleetStatus | None = state.get("fleet")
    if fleet is not None and fleet["store"] == "gone":
        yield f"{fleet['members'] + 1} {state['fleet']['deployments']['own']['reported_by'][0]}"
    ping: dict[str, PingResult] = model.ping(timeout_s=2)
    yield f"{ping['own']['works']} {ping['own']['remedy']}"
    explained = model.explain("careful")
    yield f"{explained['max_requests'] + 1} {explained['max_seconds'] + 0.5} {explained['tiers'][0][0]}"


def account(model: FallbackChatModel) -> float:
    costs = CostCallbackHandler(by="tenant")
    limit = BudgetCallbackHandler(0.5, per="tenant", window="day")
    try:
        model.invoke("hi", {"callbacks": [costs, limit], "metadata": {"tenant": "acme"}})
    except ChainExhausted as error:
        print(error.failure, [skip.reason for skip in error.skipped])
    except StreamBroken as error:
        print(error.partial.text)
    with get_cost_callback() as all_costs:
        model.invoke("hi")
    spent = costs.snapshot()["by"]["tenant"]["acme"]
    return all_costs.snapshot()["total_usd"] + (spent or 0.0) + limit.snapshot()["spent_usd"]


def compose(model: FallbackChatModel) -> Runnable[dict[str, str], str]:
    named = build_runnables(SPEC)
    print(list(named))
    return ChatPromptTemplate.from_template("{question}") | model.with_chain("careful") | StrOutputParser()


def test_it() -> None:
    fake = fake_chat_model({"own": Stall(), "hosted": "hello"}, timeout=3)
    assert_attempts(fake.invoke("hi"), "own: timeout", "hosted: succeeded")
    with FakeServer({"own": Fail("rate_limited", retry_after=2), "hosted": "hello"}) as server:
        build_chat_model(server.spec(), temperature=0).close()
