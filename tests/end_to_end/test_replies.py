"""What a server says of its own reply, tokens and how it ended: told alike on both ways through litellm."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest

from llm_fallback import ChainExhausted, Ledger, StreamBroken, build_chat_model
from llm_fallback.ledger.tally import Tokens
from llm_fallback.testing import FakeServer, Reply
from tests.asking import ask
from tests.litellm_adapter.test_direct_and_relayed_alike import heard

WAYS = ["direct", "relayed"]
PRICE = {"input_per_million": 1, "output_per_million": 1}


def priced(server: FakeServer) -> dict[str, Any]:
    spec = server.spec()
    spec["deployments"]["a"]["price"] = PRICE
    return spec


@pytest.mark.parametrize("count", [12, 12.0, "12"])
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("mode", ["invoke", "astream"])
async def test_a_count_in_another_dress_is_billed_all_the_same(count, way, mode):
    """JSON writers make floats and texts of whole numbers."""
    usage = {"prompt_tokens": count, "completion_tokens": 3, "total_tokens": 15}
    ledger = Ledger()
    with FakeServer({"a": Reply("hi", usage=usage)}) as server, heard(way):
        with build_chat_model(priced(server), listeners=[ledger]) as model:
            reply = await ask(model, mode)
    assert ledger.snapshot().total.tokens == Tokens(12, 3)
    assert ledger.snapshot().total.cost_usd == Decimal("0.000015")
    assert reply.usage_metadata["input_tokens"] == 12


@pytest.mark.parametrize("count", [-1, 12.5, 10**25, "many", [12]])
@pytest.mark.parametrize("mode", ["invoke", "astream"])
async def test_a_count_that_is_none_is_estimated_and_costs_nobody_the_answer(count, mode):
    """And the deployment's place is free again."""
    usage = {"prompt_tokens": 12, "completion_tokens": count}
    with FakeServer({"a": Reply("well, hello there", usage=usage)}) as server:
        with build_chat_model(priced(server)) as model:
            reply = await ask(model, mode)
            facts = reply.response_metadata["llm_fallback"]
            assert reply.content == "well, hello there"
            assert facts["cost_estimated"]
            assert model.state()["a"]["in_flight"] == 0


@pytest.mark.parametrize("word", ["content_filter", "refusal", "SAFETY", "content_filtered", "guardrail_intervened"])
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("mode", ["invoke", "astream"])
async def test_a_reply_that_a_safety_system_ended_is_no_answer_by_whatever_word(word, way, mode):
    """A gateway hands on the words of the provider behind it."""
    with FakeServer({"a": Reply("I", finish=word)}) as server, heard(way):
        with build_chat_model(server.spec()) as model:
            with pytest.raises((ChainExhausted, StreamBroken)) as caught:
                await ask(model, mode)
    assert [attempt.failure for attempt in caught.value.attempts] == ["content_policy"]


async def test_how_a_streamed_reply_ended_is_told_once_with_the_facts():
    """LangChain adds up what chunks say: of a gateway that says "stop" with every chunk it would be `stopstop`. And who
    leaves a stream at the word has the facts, and has not cancelled the call."""
    with FakeServer({"a": "one two three"}) as server, build_chat_model(server.spec()) as model:
        chunks = [chunk async for chunk in model.astream("?")]
    assert [chunk.response_metadata.get("finish_reason") for chunk in chunks] == [None] * (len(chunks) - 1) + ["stop"]
    assert "llm_fallback" in chunks[-1].response_metadata


@pytest.mark.parametrize(("word", "meant"), [("max_tokens", "length"), ("end_turn", "stop"), ("eos", "stop")])
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("mode", ["invoke", "astream"])
async def test_other_words_for_an_end_are_told_in_openais(word, meant, way, mode):
    """Agents look at the word."""
    with FakeServer({"a": Reply("I", finish=word)}) as server, heard(way):
        with build_chat_model(server.spec()) as model:
            assert (await ask(model, mode)).response_metadata["finish_reason"] == meant
