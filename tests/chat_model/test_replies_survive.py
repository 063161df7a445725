"""Replies with their facts, wherever LangChain puts them away: written out, pickled, cached, in checkpoints."""

from __future__ import annotations

import pickle
import sqlite3
from collections.abc import Sequence
from typing import Any

import pytest
from langchain.agents import create_agent
from langchain_core.caches import RETURN_VAL_TYPE, BaseCache, InMemoryCache
from langchain_core.chat_history import InMemoryChatMessageHistory
from langchain_core.load import dumps, loads
from langchain_core.messages import AIMessage, HumanMessage, messages_from_dict, messages_to_dict
from langchain_core.outputs import Generation
from langgraph.checkpoint.memory import InMemorySaver

from llm_fallback.testing import Fail, Reply
from tests.asking import TWO_MODES, ask
from tests.chat_model.test_history import WORLDS, models, weather

CALL = Reply("Let me see.", tool_calls=[{"name": "weather", "args": {"city": "Oslo"}}], reasoning="hm")
SCRIPTS = {"a": Fail(500), "b": CALL}


class SQLiteCache(BaseCache):
    """LangChain's cache in a table, its replies written out as LangChain's own such caches do."""

    def __init__(self) -> None:
        self.table = sqlite3.connect(":memory:", check_same_thread=False)
        self.table.execute("create table cache (prompt, llm, reply)")

    def lookup(self, prompt: str, llm_string: str) -> RETURN_VAL_TYPE | None:
        found = self.table.execute("select reply from cache where prompt = ? and llm = ?", (prompt, llm_string))
        replies: list[Generation] = [loads(row[0], allowed_objects="core") for row in found]
        return replies or None

    def update(self, prompt: str, llm_string: str, return_val: Sequence[Generation]) -> None:
        rows = [(prompt, llm_string, dumps(one)) for one in return_val]
        self.table.executemany("insert into cache values (?, ?, ?)", rows)

    def clear(self, **kwargs: Any) -> None:
        self.table.execute("delete from cache")


@pytest.mark.parametrize("mode", TWO_MODES)
@pytest.mark.parametrize("world", WORLDS)
async def test_written_out_pickled_or_kept_as_history_they_are_what_they_were(world, mode):
    """With tool calls, usage and the facts of the call."""
    with models(world, SCRIPTS) as (model, _):
        reply = await ask(model.bind_tools([weather]), mode)
    assert reply.tool_calls
    assert loads(dumps(reply), allowed_objects="messages") == reply
    assert pickle.loads(pickle.dumps(reply)) == reply
    [restored] = messages_from_dict(messages_to_dict([reply]))
    assert restored == reply
    history = InMemoryChatMessageHistory()
    history.add_message(reply)
    assert history.messages == [reply]


@pytest.mark.parametrize("mode", ["invoke", "ainvoke"])
@pytest.mark.parametrize("cache", [InMemoryCache, SQLiteCache])
@pytest.mark.parametrize("world", WORLDS)
async def test_a_cache_gives_them_back_and_goes_on_with_them(world, cache, mode):
    """Though it is a table that holds nothing but text."""
    with models(world, SCRIPTS, cache=cache()) as (model, received):
        bound = model.bind_tools([weather])
        first, second = [await ask(bound, mode) for _ in range(2)]
        assert len(received("b")) == 1
    assert (second.text, second.tool_calls) == (first.text, first.tool_calls)
    assert second.response_metadata["llm_fallback"]["cached"] is True
    assert second.response_metadata["model_name"] == "b"


@pytest.mark.parametrize("world", WORLDS)
def test_a_checkpoint_holds_them_for_the_next_turn(world):
    """The second turn is asked with the first one's call and its answer."""
    with models(world, {"a": Fail(500), "b": [CALL, "rain", "still rain"]}) as (model, received):
        agent: Any = create_agent(model, [weather], checkpointer=InMemorySaver())
        thread = {"configurable": {"thread_id": "1"}}
        agent.invoke({"messages": [HumanMessage("weather in Oslo?")]}, thread)
        state = agent.invoke({"messages": [HumanMessage("and now?")]}, thread)
        sent = received("b")[-1].body["messages"]
    assert [message["role"] for message in sent] == ["user", "assistant", "tool", "assistant", "user"]
    replies = [message for message in state["messages"] if isinstance(message, AIMessage)]
    assert [reply.response_metadata["llm_fallback"]["deployment"] for reply in replies] == ["b"] * 3
