"""Tools, schemas and judges do the same on a fake and on a server behind the real model."""

from __future__ import annotations

from typing import Any

import pytest
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage, ToolMessage
from langchain_core.tools import tool
from pydantic import BaseModel

from llm_fallback import ChainExhausted
from llm_fallback.testing import Reply
from tests.asking import MODES, STREAMED, TWO_MODES, ask
from tests.conformance.facts import assert_alike
from tests.conformance.scripts import CALL
from tests.thinning import combinations


class Answer(BaseModel):
    """An answer."""

    number: int
    names: list[str] = []


@tool
def weather(city: str, days: int = 1) -> str:
    """The weather in a city."""
    return "rain"


PICTURE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
PROMPTS: dict[str, Any] = {
    "a text": "hi",
    "a system message": [SystemMessage("be brief"), HumanMessage("hi", name="bob")],
    "a picture": [HumanMessage([{"type": "text", "text": "what is this?"}, PICTURE])],
    "tools used before": [
        HumanMessage("weather?"),
        AIMessage("", tool_calls=[{**CALL, "id": "1"}], additional_kwargs={"reasoning_content": "hm"}),
        ToolMessage("rain", tool_call_id="1", name="weather"),
    ],
}
NO_ANSWER = {
    "prose": "sorry",
    "half": Reply('{"number": '),
    "another": Reply('{"count": 1}'),
    "half a call": Reply(tool_calls=[{"name": "Answer", "args": '{"number": 7, "names": ["a'}], finish="length"),
}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("prompt", PROMPTS)
async def test_every_kind_of_message(twins, prompt, mode):
    """The same request goes out, and the same answer comes of it."""
    async with twins({"a": None}) as models:
        await assert_alike(models, mode, PROMPTS[prompt])


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("choice", [None, "auto", "any", "weather"])
async def test_bound_tools(twins, choice, mode):
    """Chosen or left to the model."""
    async with twins({"a": None}) as models:
        bound = tuple(model.bind_tools([weather], tool_choice=choice) for model in models)
        await assert_alike(bound, mode, "weather in Oslo for 3 days?")


@pytest.mark.parametrize(
    ("refusal", "method", "mode"),
    combinations(
        NO_ANSWER,
        ["json_schema", "function_calling", "json_mode"],
        MODES,
        fast=lambda refusal, method, mode: mode in TWO_MODES or (refusal, method) == ("prose", "json_schema"),
    ),
)
async def test_structured_output(twins, refusal, method, mode):
    """A reply that does not parse falls back, and with nobody left it is the same error."""
    given = {"number": 7, "names": ["a"]}
    good = Reply(tool_calls=[{"name": "Answer", "args": given}]) if method == "function_calling" else None
    good = good or Reply('{"number": 7, "names": ["a"]}')
    chains = {"pair": {"tiers": ["a", "b"]}, "alone": {"tiers": ["a"]}}
    async with twins({"a": NO_ANSWER[refusal], "b": good}, chains) as models:
        for model in models:
            structured = model.with_structured_output(Answer, method=method)
            assert await _parsed(structured, mode) == Answer(**given)
            with pytest.raises(ChainExhausted, match="a: rejected"):
                await _parsed(structured, mode, chain="alone")


async def _parsed(structured: Any, mode: str, **words: Any) -> Any:
    """The last of what is parsed: streamed JSON comes as it grows."""
    if mode not in STREAMED:
        return await ask(structured, mode, "7", **words)
    if mode == "stream":
        return list(structured.stream("7", **words))[-1]
    return [part async for part in structured.astream("7", **words)][-1]


@pytest.mark.parametrize("mode", MODES)
async def test_a_reply_that_accept_refuses(twins, mode):
    """Costs what it cost."""
    async with twins({"a": "bad", "b": "good"}, accept=lambda message: message.content == "good") as models:
        await assert_alike(models, mode)
