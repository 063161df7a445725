"""Whose call it is: the outermost run of LangChain, known to everything below it."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from uuid import uuid4

import pytest
from langchain_core.callbacks import BaseCallbackHandler, CallbackManager
from langchain_core.documents import Document
from langchain_core.retrievers import BaseRetriever
from langchain_core.runnables import RunnableLambda, RunnableParallel
from langchain_core.tools import tool
from langgraph.graph import END, START, StateGraph

from llm_fallback.callbacks import root_run
from llm_fallback.callbacks.root_run import RootRun, RootRunTracker, current_root, root_of_handlers


def spy(seen):
    """A step that notes the outermost run, as the handlers of its config and as LangChain's context tell it."""

    def look(given, config):
        seen.append((root_of_handlers(config["callbacks"].handlers), current_root()))
        return given

    return RunnableLambda(look)


@pytest.mark.parametrize("mode", ["invoke", "ainvoke", "stream", "astream", "batch", "abatch"])
def test_every_step_knows_the_outermost_run(mode):
    """In sequence, in parallel, in a chain that a function calls, in threads and in tasks."""
    seen, run_id = [], uuid4()
    inner = spy(seen) | spy(seen)
    chain = RunnableParallel(left=inner, right=RunnableLambda(lambda given: inner.invoke(given))) | spy(seen)
    config = {"run_id": run_id}
    match mode:
        case "invoke":
            chain.invoke(1, config)
        case "ainvoke":
            asyncio.run(chain.ainvoke(1, config))
        case "stream":
            list(chain.stream(1, config))
        case "astream":
            asyncio.run(_all(chain.astream(1, config)))
        case "batch":
            chain.batch([1], config)
        case "abatch":
            asyncio.run(chain.abatch([1], config))
    assert seen == [(run_id, run_id)] * 5


async def _all(stream):
    return [part async for part in stream]


def test_runs_at_the_same_time_are_apart():
    """Each item of a batch is a run, and so is each call of a thread."""
    seen, ids = [], [uuid4() for _ in range(10)]
    chain = spy(seen) | spy(seen)
    with ThreadPoolExecutor(5) as pool:
        list(pool.map(lambda run_id: chain.invoke(1, {"run_id": run_id}), ids))
    assert sorted(root for root, _ in seen) == sorted(ids * 2)
    seen.clear()
    chain.batch([1, 2, 3])
    assert len({root for root, _ in seen}) == 3


def test_a_graph_is_one_run_with_all_its_nodes():
    """Those of a graph in it as well."""
    seen, run_id = [], uuid4()

    def graph_of(**nodes):
        graph = StateGraph(dict)
        for name, node in nodes.items():
            graph.add_node(name, node)
            graph.add_edge(START, name)
            graph.add_edge(name, END)
        return graph.compile()

    step = spy(seen)
    inner = graph_of(within=lambda state, config: step.invoke(state, config) and None)
    graph_of(a=inner, b=lambda state: step.invoke(state) and None).invoke({"x": 1}, {"run_id": run_id})
    assert seen == [(run_id, run_id)] * 2


def test_a_tool_and_a_retriever_may_be_outermost():
    """What they call belongs to them."""
    seen = []
    step = spy(seen)

    @tool
    def look(what: str) -> str:
        """Look at it."""
        return step.invoke(what)

    class Library(BaseRetriever):
        def _get_relevant_documents(self, query, *, run_manager):
            step.invoke(query, {"callbacks": run_manager.get_child()})
            return [Document("found")]

    heard = Heard()
    look.invoke("x", {"callbacks": [heard]})
    Library().invoke("x", {"callbacks": [heard]})
    assert [root for root, _ in seen] == heard.roots


class Heard(BaseCallbackHandler):
    """Notes the ids of tools and retrievers that are outermost."""

    def __init__(self):
        self.roots = []

    def on_tool_start(self, serialized, input_str, *, run_id, parent_run_id=None, **kwargs):
        self.roots.append(run_id)

    def on_retriever_start(self, serialized, query, *, run_id, parent_run_id=None, **kwargs):
        self.roots.append(run_id)


def test_outside_of_any_run_there_is_none():
    """A handler that stands for a run that has not begun stands for none."""
    assert current_root() is None
    assert root_of_handlers([]) is None
    assert root_of_handlers(CallbackManager.configure([Heard()]).handlers) is None


def test_a_run_has_one_handler_for_it_which_is_told_no_more_than_its_beginning():
    """So that it costs nothing on the way: neither tokens nor what begins below."""
    managers = []

    def look(given, config):
        managers.append(config["callbacks"])
        return given

    (RunnableLambda(look) | RunnableLambda(look)).invoke(1)
    standing = [handler for manager in managers for handler in manager.handlers if isinstance(handler, RootRun)]
    assert len(standing) == 2
    assert standing[0] is standing[1]
    assert all(getattr(standing[0], f"ignore_{what}") for what in ("chain", "agent", "retriever", "llm", "chat_model"))


class TestAsOneHandlerSeesIt:
    """For handlers of models that are not ours, which LangChain tells a parent and no more."""

    def test_the_topmost_run_it_has_seen_begin(self):
        """Or the parent of the first it saw."""
        tracker, ids = RootRunTracker(), [uuid4() for _ in range(4)]
        tracker.begin(ids[1], ids[0])
        tracker.begin(ids[2], ids[1])
        assert tracker.root(ids[3], ids[2]) == tracker.root(ids[3], ids[0]) == ids[0]
        assert tracker.root(ids[3], None) == ids[3]

    def test_the_oldest_are_forgotten(self, monkeypatch):
        """So that memory is bounded."""
        monkeypatch.setattr(root_run, "_MAX_RUNS", 10)
        tracker, top = RootRunTracker(), uuid4()
        children = [uuid4() for _ in range(20)]
        for child in children:
            tracker.begin(child, top)
        assert (tracker.root(uuid4(), children[0]), tracker.root(uuid4(), children[-1])) == (children[0], top)
