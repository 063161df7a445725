"""Streams that break, at every chunk, under every policy: what the caller gets is what the policy promises."""

from __future__ import annotations

import asyncio
import gc
import json
import subprocess
import sys
import threading
from concurrent.futures import Future

import pytest

from llm_fallback import StreamBroken, build_chat_model
from llm_fallback.chat_model.portal import portal
from llm_fallback.testing import Cut, Fail, FakeServer, Reply, Stall, fake_chat_model
from llm_fallback.testing.transport import ScriptedExchange
from tests.asking import STREAMED, TWO_MODES, ask, merged
from tests.thinning import combinations

WORDS = ["one ", "two ", "three ", "four ", "five"]
WHOLE = "".join(WORDS)
CALL = {"name": "look_up", "args": {"city": "Oslo", "days": 3}, "id": "call_1"}
OTHER = {"name": "convert", "args": {"to": "EUR"}, "id": "call_2"}
TOOLS = [
    {
        "type": "function",
        "function": {"name": name, "description": name, "parameters": {"type": "object", "properties": {}}},
    }
    for name in ("look_up", "convert")
]
HOWS = ("reset", "close", "done", "error_frame", "bad_frame", "abort", "error")


async def collected(model, mode):
    """Chunks until the end or the break, and the break if there was one."""
    chunks = []
    try:
        if mode == "stream":
            for chunk in model.stream("go"):
                chunks.append(chunk)
        else:
            async for chunk in model.astream("go"):
                chunks.append(chunk)
    except StreamBroken as broken:
        return chunks, broken
    return chunks, None


def delivered(chunks) -> str:
    return "".join(chunk.text for chunk in chunks)


@pytest.mark.parametrize(
    ("after", "how", "mode"),
    combinations(
        range(1, len(WORDS) + 1), HOWS, STREAMED, fast=lambda after, how, mode: after == 1 or mode in TWO_MODES
    ),
)
async def test_continue_goes_on_where_the_text_broke(mode, how, after):
    """Wherever and however a stream ends early, the next deployment goes on and the whole is the whole."""
    rest = "".join(WORDS[after:]) or "."
    broken = Cut(after_chunks=after, how=how, reply=Reply(WHOLE, chunks=WORDS))
    with FakeServer({"a": broken, "b": rest}) as server:
        with build_chat_model(server.spec(backend="vllm", on_stream_break="continue")) as model:
            chunks, error = await collected(model, mode)
        asked = server.received("b")[0].body
    assert error is None
    assert delivered(chunks) == "".join(WORDS[:after]) + rest
    assert asked["messages"][-1] == {"role": "assistant", "content": "".join(WORDS[:after])}
    assert asked["continue_final_message"] is True
    facts = merged(chunks).response_metadata["llm_fallback"]
    assert facts["stitched"] is True
    assert facts["stitches"] == [{"deployment": "b", "at": len("".join(WORDS[:after]))}]
    assert [attempt["failure"] for attempt in facts["attempts"]] == ["stream_broken", None]


@pytest.mark.parametrize("mode", STREAMED)
@pytest.mark.parametrize("backend", ["vllm", "openai-compatible"])
@pytest.mark.parametrize("after", range(1, 9))
async def test_white_space_in_pieces_of_its_own_is_part_of_a_continued_reply(mode, backend, after):
    """Models say a blank or a new line as a token like any other, and what is joined keeps each of them."""
    pieces = ["one", " ", "two", "\n", "\n", "three", " ", "four", " ", "five"]
    whole = "".join(pieces)
    broken = Cut(after_chunks=after, reply=Reply(whole, chunks=pieces))
    rest = Reply("".join(pieces[after:]), chunks=pieces[after:])
    with FakeServer({"a": broken, "b": rest}) as server:
        with build_chat_model(server.spec(backend=backend, on_stream_break="continue")) as model:
            chunks, error = await collected(model, mode)
    assert error is None
    assert delivered(chunks) == whole


@pytest.mark.parametrize(
    ("policy", "after", "how", "mode"),
    combinations(
        ["raise", "hold"],
        range(1, len(WORDS) + 1),
        HOWS,
        STREAMED,
        fast=lambda policy, after, how, mode: after == 1 or mode in TWO_MODES,
    ),
)
async def test_raise_and_hold_keep_their_promise_at_every_chunk(mode, how, after, policy):
    """`raise` tells what was delivered, once; `hold` shows only the whole reply of the next."""
    broken = Cut(after_chunks=after, how=how, reply=Reply(WHOLE, chunks=WORDS))
    with FakeServer({"a": broken, "b": "another"}) as server:
        with build_chat_model(server.spec(on_stream_break=policy)) as model:
            chunks, error = await collected(model, mode)
        assert len(server.received("b")) == (policy == "hold")
    if policy == "hold":
        assert delivered(chunks) == "another"
        assert error is None
    else:
        assert delivered(chunks) == "".join(WORDS[:after]) == error.partial.content


@pytest.mark.parametrize("mode", STREAMED)
async def test_a_stall_breaks_a_stream_like_a_cut(mode):
    """Nothing more within idle_s: the next deployment goes on."""
    stalled = Stall(after_chunks=2, reply=Reply(WHOLE, chunks=WORDS))
    with FakeServer({"a": stalled, "b": "three four five"}) as server:
        spec = server.spec(on_stream_break="continue", timeouts={"idle_s": 0.2})
        with build_chat_model(spec) as model:
            chunks, error = await collected(model, mode)
    assert error is None
    assert delivered(chunks) == WHOLE
    assert merged(chunks).response_metadata["llm_fallback"]["attempts"][0]["failure"] in (
        "idle_timeout",
        "stream_broken",
    )


@pytest.mark.parametrize("mode", STREAMED)
async def test_a_server_without_prefill_is_told_to_go_on_and_its_repetition_is_trimmed(mode):
    """It gets what was delivered and an instruction; what it says again at the stitch is said once."""
    broken = Cut(after_chunks=3, reply=Reply(WHOLE, chunks=WORDS))
    for rest in ("four five", "three four five", "two three four five", WHOLE):
        with FakeServer({"a": broken, "b": rest}) as server:
            with build_chat_model(server.spec(on_stream_break="continue")) as model:
                chunks, _ = await collected(model, mode)
            messages = server.received("b")[0].body["messages"]
        assert delivered(chunks) == WHOLE
        assert messages[-2] == {"role": "assistant", "content": "one two three "}
        assert messages[-1]["role"] == "user"


@pytest.mark.parametrize("mode", STREAMED)
async def test_a_chain_may_break_again_and_again(mode):
    """Each deployment goes on with all that was delivered before it."""
    scripts = {
        "a": Cut(after_chunks=1, reply=Reply(WHOLE, chunks=WORDS)),
        "b": Cut(after_chunks=1, reply=Reply("two x", chunks=["two ", "x"])),
        "c": Cut(after_chunks=2, reply=Reply("three four x", chunks=["three ", "four ", "x"])),
        "d": "five",
    }
    with FakeServer(scripts) as server:
        with build_chat_model(server.spec(backend="vllm", on_stream_break="continue")) as model:
            chunks, error = await collected(model, mode)
            most = model.explain()["max_requests"]
        assert len(server.received()) <= most
        assert server.received("d")[0].body["messages"][-1]["content"] == "one two three four "
    assert error is None
    assert delivered(chunks) == WHOLE
    assert len(merged(chunks).response_metadata["llm_fallback"]["stitches"]) == 3


@pytest.mark.parametrize("mode", STREAMED)
async def test_when_nobody_can_go_on_the_break_is_raised_with_all_that_was_delivered(mode):
    """A chain that is used up in the middle of a reply says so, with the parts of all."""
    scripts = {
        "a": Cut(after_chunks=2, reply=Reply(WHOLE, chunks=WORDS)),
        "b": Cut(after_chunks=1, reply=Reply("three x", chunks=["three ", "x"])),
    }
    with FakeServer(scripts) as server:
        spec = server.spec(backend="vllm", on_stream_break="continue", retries={"max": 0})
        with build_chat_model(spec) as model:
            chunks, error = await collected(model, mode)
    assert delivered(chunks) == error.partial.content == "one two three "
    assert len(error.attempts) == 2


REPLIES = {
    "text_and_tool_call": Reply("let me look", tool_calls=[CALL]),
    "parallel_tool_calls": Reply("", tool_calls=[CALL, OTHER]),
}


def length_of(reply: Reply) -> int:
    """Chunks a stream of the reply has, until one more makes no difference."""
    with FakeServer({"a": reply}) as server, build_chat_model(server.spec()) as model:
        return len(list(model.bind(tools=TOOLS).stream("go")))


@pytest.mark.parametrize("mode", STREAMED)
@pytest.mark.parametrize("policy", ["raise", "continue", "hold"])
@pytest.mark.parametrize("kind", REPLIES)
async def test_a_tool_call_is_whole_or_not_there(kind, policy, mode):
    """At every chunk index: `continue` and `hold` deliver each call once and whole, `raise` says where it broke."""
    reply = REPLIES[kind]
    expected = [(call["name"], call["args"]) for call in reply.tool_calls]
    for after in range(1, length_of(reply)):
        # The backup goes on with what is missing of the text, and makes the calls.
        with FakeServer({"a": Cut(after_chunks=after, reply=reply), "b": reply}) as server:
            with build_chat_model(server.spec(on_stream_break=policy)) as model:
                chunks, error = await collected(model.bind(tools=TOOLS), mode)
        whole = merged(chunks) if chunks else None
        if error is not None:
            assert policy == "raise"
            continue
        assert [(call["name"], call["args"]) for call in whole.tool_calls] == expected
        assert whole.text == reply.text


@pytest.mark.parametrize("mode", STREAMED)
@pytest.mark.parametrize("after", [1, 2, 3, 4])
async def test_reasoning_is_that_of_the_deployment_that_began_it(mode, after):
    """A break while thinking or after it: the text is whole, and no second train of thought is spliced in."""
    reply = Reply("the answer is 7", reasoning="first add then halve", chunks=["the ", "answer ", "is ", "7"])
    broken = Cut(after_chunks=after, reply=reply)
    with FakeServer({"a": broken, "b": reply}) as server:
        with build_chat_model(server.spec(on_stream_break="continue")) as model:
            chunks, error = await collected(model, mode)
    assert error is None
    assert delivered(chunks) == "the answer is 7"
    thought = merged(chunks).additional_kwargs.get("reasoning_content", "")
    assert "first add then halve".startswith(thought)


@pytest.mark.parametrize("mode", STREAMED)
@pytest.mark.parametrize("after", [1, 2, 3])
async def test_a_document_under_continue_is_delivered_whole(mode, after):
    """Half a JSON document is no beginning another model could go on from: it is held."""
    document = json.dumps({"a": 1, "b": [1, 2, 3]})
    reply = Reply(document, chunks=[document[:5], document[5:9], document[9:]])
    with FakeServer({"a": Cut(after_chunks=after, reply=reply), "b": reply}) as server:
        with build_chat_model(server.spec(on_stream_break="continue")) as model:
            chunks, error = await collected(model.bind(response_format={"type": "json_object"}), mode)
    assert error is None
    assert json.loads(delivered(chunks)) == {"a": 1, "b": [1, 2, 3]}


@pytest.mark.parametrize("mode", ["invoke", "ainvoke", "stream", "astream"])
async def test_a_hedge_answers_when_the_first_is_slow(mode):
    """The second is asked after after_s; its content wins; the slow request is closed; both are in the record."""
    with FakeServer({"a": Reply("slow", delay_s=3), "b": "quick"}) as server:
        with build_chat_model(server.spec(hedge={"after_s": 0.2})) as model:
            message = await ask(model, mode)
            server.wait_until(lambda: server.received("a")[0].client_gone_at is not None)
            state = model.state()
        gone = server.received("a")[0].client_gone_at
        assert gone - server.received("b")[0].at < 0.4
    assert message.content == "quick"
    facts = message.response_metadata["llm_fallback"]
    assert [(a["deployment"], a["outcome"]) for a in facts["attempts"]] == [("a", "cancelled"), ("b", "succeeded")]
    assert (state["b"]["hedges_sent"], state["b"]["hedges_won"], state["a"]["failures"]) == (1, 1, 0)
    assert state["a"]["in_flight"] == state["b"]["in_flight"] == 0


@pytest.mark.parametrize("mode", ["invoke", "ainvoke", "stream", "astream"])
async def test_the_first_wins_if_it_is_quicker_than_its_hedge(mode):
    """The hedge is dropped, and the answer is the first's."""
    with FakeServer({"a": Reply("first", delay_s=0.4), "b": Reply("late", delay_s=3)}) as server:
        with build_chat_model(server.spec(hedge={"after_s": 0.1})) as model:
            message = await ask(model, mode)
            server.wait_until(lambda: server.received("b")[0].client_gone_at is not None)
    assert message.content == "first"
    assert message.response_metadata["llm_fallback"]["fell_back"] is False


async def test_no_hedge_without_another_healthy_deployment():
    """With nobody to ask the wait simply goes on."""
    with FakeServer({"a": Reply("slow", delay_s=0.3)}) as server:
        async with build_chat_model(server.spec(hedge={"after_s": 0.05})) as model:
            assert (await model.ainvoke("go")).content == "slow"
        assert len(server.received()) == 1


async def test_when_both_of_a_race_fail_the_next_is_asked():
    """Neither failure is lost from the record."""

    scripts = {"a": Fail(500, delay_s=0.3), "b": Fail(429, delay_s=0.1), "c": "third"}
    with FakeServer(scripts) as server:
        async with build_chat_model(server.spec(hedge={"after_s": 0.1})) as model:
            message = await model.ainvoke("go")
    facts = message.response_metadata["llm_fallback"]
    assert message.content == "third"
    assert {(a["deployment"], a["failure"]) for a in facts["attempts"]} == {
        ("a", "server_error"),
        ("b", "rate_limited"),
        ("c", None),
    }


@pytest.mark.slow
async def test_hedges_stay_a_tenth_of_the_calls():
    """However slow everything is, hedging does not double the load."""
    with FakeServer({"a": Reply("slow", delay_s=0.05), "b": Reply("slow too", delay_s=0.05)}) as server:
        async with build_chat_model(server.spec(hedge={"after_s": 0.005})) as model:
            for _ in range(100):
                await model.ainvoke("go")
        assert len(server.received()) <= 110


@pytest.mark.parametrize("mode", ["ainvoke", "astream"])
async def test_of_fifty_calls_at_expiry_exactly_one_probes(mode):
    """While the backup is there, one request finds out whether the primary is back; the others do not wait for it."""
    with FakeServer({"a": [Fail(500)], "b": "backup"}) as server:
        spec = server.spec(deployments={"a": {"breaker": {"failures": 1, "cooldown_s": 0.3}}})
        async with build_chat_model(spec) as model:
            await ask(model, mode)
            server.script("a", Reply("back", delay_s=0.5))
            await asyncio.sleep(0.35)
            answers = await asyncio.gather(*(ask(model, mode) for _ in range(50)))
            assert len(server.received("a")) == 2
            assert sorted(message.content for message in answers) == ["back", *["backup"] * 49]
            assert model.state()["a"]["breaker"] == "closed"


@pytest.mark.parametrize("mode", STREAMED)
async def test_the_cost_of_a_broken_attempt_is_estimated_and_said_to_be(mode):
    """It never reported its usage; the sum counts it all the same, and says that it is an estimate."""
    priced = {name: {"price": {"input_per_million": 1000, "output_per_million": 1000}} for name in ("a", "b")}
    broken = Cut(after_chunks=2, reply=Reply(WHOLE, chunks=WORDS))
    with FakeServer({"a": broken, "b": Reply("three four five", usage=(10, 3))}) as server:
        spec = server.spec(deployments=priced, on_stream_break="continue")
        with build_chat_model(spec) as model:
            chunks, _ = await collected(model, mode)
    facts = merged(chunks).response_metadata["llm_fallback"]
    first, second = facts["attempts"]
    assert first["cost_estimated"] is True
    assert first["cost_usd"] == pytest.approx(0.002)  # "one two " is two tokens, "go" none at four characters each
    assert "cost_estimated" not in second
    assert facts["cost_usd"] == pytest.approx(0.002 + 0.013)
    assert facts["cost_estimated"] is True


class Session:
    """What an application keeps a stream in; being part of a cycle, it is the garbage collector that ends it."""

    def __init__(self, model):
        self.itself = self
        self.stream = model.stream("go")
        next(self.stream)


@pytest.fixture
def collect():
    """Collects in a thread of its own, under a lock if one is given, and nowhere else."""

    def work(lock):
        with lock:
            gc.collect()

    def collect(lock):
        collecting = threading.Thread(target=work, args=(lock,), daemon=True)
        collecting.start()
        collecting.join(timeout=5)
        assert not collecting.is_alive(), "the collection waits for somebody who waits for it"

    gc.collect()
    gc.disable()
    yield collect
    gc.enable()


def told_of(listen):
    """A model whose listener is this, and what comes of the first event of a call it makes."""
    outcome = Future()

    def listener(event):
        outcome.set_result((event, threading.current_thread(), listen()))

    return fake_chat_model({"a": WHOLE}).model_copy(update={"listeners": (listener,)}), outcome


@pytest.mark.slow
class TestCollectedStreams:
    def test_the_collector_may_come_while_the_lock_is_held_that_closing_needs(self, collect):
        """As in `state()`: the collector waits for nobody, and the stream is closed once the lock is free."""
        model, told = told_of(lambda: None)
        Session(model)
        collect(model.runtime.engine.health.lock)
        event, _, _ = told.result(timeout=5)
        assert (event.failure, [attempt.outcome for attempt in event.record.attempts]) == ("cancelled", ["cancelled"])
        assert model.state()["a"]["in_flight"] == 0

    def test_the_collector_may_come_while_a_listener_holds_its_own_lock(self, collect):
        """The end is told from a thread that holds no lock, and is gone afterwards."""
        own = threading.Lock()

        def listen():
            with own:
                return "counted"

        model, told = told_of(listen)
        Session(model)
        collect(own)
        _, thread, outcome = told.result(timeout=5)
        assert outcome == "counted"
        thread.join(timeout=5)
        assert not thread.is_alive()

    def test_a_listener_may_ask_a_model_though_the_collector_came_by_on_the_portal(self, collect):
        """Nothing of the user's runs there: it would wait for itself."""
        model, told = told_of(lambda: fake_chat_model({"b": "a judgement"}).invoke("judge this").content)
        Session(model)
        portal().loop.call_soon_threadsafe(gc.collect)
        _, _, outcome = told.result(timeout=5)
        assert outcome == "a judgement"

    def test_a_stream_is_closed_once_though_closing_takes_its_time(self, collect, monkeypatch, caplog):
        """Of two who close a generator the second is refused, and the loop would complain of it."""
        close = ScriptedExchange.close

        async def slowly(exchange):
            for _ in range(100):
                await asyncio.sleep(0)
            await close(exchange)

        monkeypatch.setattr(ScriptedExchange, "close", slowly)
        model, told = told_of(lambda: None)
        Session(model)
        collect(threading.Lock())
        assert told.result(timeout=5)[0].failure == "cancelled"
        collect(threading.Lock())
        assert caplog.records == []

    def test_a_finaliser_that_asks_a_model_has_its_call_told(self, collect):
        """It waits for its own answer, as it wants to; the call has ended then, and is counted as any."""
        model, told = told_of(lambda: None)

        class Asking:
            def __init__(self):
                self.itself = self

            def __del__(self):
                model.invoke("go")

        Asking()
        collect(threading.Lock())
        assert told.result(timeout=0)[0].failure is None

    def test_a_stream_left_by_its_reader_is_told_before_the_reader_goes_on(self, collect):
        """No collector is needed for that, nor any waiting."""
        model, told = told_of(lambda: None)
        for _ in model.stream("go"):
            break
        event, thread, _ = told.result(timeout=0)
        assert (event.failure, thread) == ("cancelled", threading.current_thread())
        assert model.state()["a"]["in_flight"] == 0


LEFT_OPEN = """
from llm_fallback.testing import fake_chat_model

stream = fake_chat_model({"a": "one two three"}).stream("go")
print(next(stream).text)
"""


@pytest.mark.slow
def test_a_script_may_end_with_a_stream_open():
    """The portal stands still by then, and nobody waits for it."""
    ended = subprocess.run([sys.executable, "-c", LEFT_OPEN], timeout=30, capture_output=True, text=True)
    assert (ended.returncode, ended.stdout.strip(), ended.stderr) == (0, "one", "")
