"""`POST /v1/chat/completions`: what goes in, what comes out, and what becomes of a call whose client leaves."""

from __future__ import annotations

import asyncio
import json
import sys
from http.server import BaseHTTPRequestHandler
from typing import Any, ClassVar, get_args

import httpx
import pytest

from llm_fallback.events import Failure
from llm_fallback.serving import create_app
from llm_fallback.serving.chat import LARGEST_BODY
from llm_fallback.serving.errors import FAILURES
from llm_fallback.testing import Cut, Fail, FakeServer, Reply, Stall, fake_chat_model
from tests.loopback import LoopbackServer
from tests.serving.running import in_process, question, served

PATH = "/v1/chat/completions"
PRICED = {"price": {"input_per_million": 1, "output_per_million": 2}}


def events(text: str) -> list[Any]:
    """The documents of a stream, without `[DONE]`."""
    lines = [line.removeprefix("data: ") for line in text.split("\n\n") if line]
    return [json.loads(line) for line in lines if line != "[DONE]"]


def text_of(chunks: list[Any]) -> str:
    return "".join(choice["delta"].get("content") or "" for chunk in chunks for choice in chunk.get("choices", ()))


async def asked(source: Any, **words: Any) -> httpx.Response:
    with in_process(source) as client:
        return await client.post(PATH, json=question(**words))


async def test_a_whole_reply_is_openais_with_the_facts_of_its_call() -> None:
    """Who answered, after how many attempts and for how much stands in headers, too."""
    with FakeServer({"primary": Fail(503), "backup": Reply("Paris.", usage=(10, 5))}) as server:
        reply = await asked(server.spec(deployments=dict.fromkeys(("primary", "backup"), PRICED)))
    document = reply.json()
    assert document["object"] == "chat.completion"
    assert document["model"] == "backup"
    assert document["choices"] == [
        {
            "index": 0,
            "message": {"role": "assistant", "content": "Paris."},
            "logprobs": None,
            "finish_reason": "stop",
        }
    ]
    assert document["usage"] == {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15}
    assert [attempt["failure"] for attempt in document["llm_fallback"]["attempts"]] == ["overloaded", None]
    assert reply.headers["x-llm-fallback-deployment"] == "backup"
    assert reply.headers["x-llm-fallback-attempts"] == "2"
    assert reply.headers["x-llm-fallback-cost-usd"] == "0.00002"
    assert document["llm_fallback"]["cost_usd"] == 2e-05
    assert reply.headers["x-request-id"]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("name", ["max_tokens", "max_completion_tokens"])
@pytest.mark.parametrize("odd", ["ten", [], {}, {"a": 1}, -5])
async def test_a_limit_that_is_none_is_for_the_model_server_to_refuse(name, odd, stream) -> None:
    """Where there is a budget, too: what the reply may cost is estimated without it."""
    with FakeServer({"a": Fail(400)}) as server:
        spec = server.spec(deployments={"a": PRICED})
        spec["chains"]["default"]["budget"] = {"usd_per_day": 1}
        reply = await asked(spec, stream=stream, **{name: odd})
        assert (reply.status_code, server.received()[0].body[name]) == (400, odd)


async def test_a_stream_is_openais_and_its_last_chunk_has_the_facts() -> None:
    """The role first, the finish reason alone, then `[DONE]`; no usage and no empty choices unless asked for."""
    with FakeServer({"primary": Fail(503), "backup": Reply("one two three", chunks=3)}) as server:
        reply = await asked(server.spec(), stream=True)
    *chunks, last = events(reply.text)
    assert reply.headers["content-type"].startswith("text/event-stream")
    assert reply.headers["x-llm-fallback-deployment"] == "backup"
    assert reply.headers["x-llm-fallback-attempts"] == "2"
    assert reply.text.endswith("\n\ndata: [DONE]\n\n")
    assert chunks[0]["choices"][0]["delta"]["role"] == "assistant"
    assert text_of(chunks) == "one two three"
    assert {chunk["id"] for chunk in (*chunks, last)} == {last["id"]}
    assert all(chunk["choices"][0]["finish_reason"] is None and "llm_fallback" not in chunk for chunk in chunks)
    assert last["choices"] == [{"index": 0, "delta": {}, "logprobs": None, "finish_reason": "stop"}]
    assert last["llm_fallback"]["deployment"] == "backup"
    assert "usage" not in last


async def test_a_stream_whose_usage_is_asked_for_ends_with_it() -> None:
    """In a chunk without choices, as OpenAI sends it; the facts stand there, because it is the last."""
    model = fake_chat_model({"only": Reply("fine", usage=(7, 3))})
    reply = await asked(model, stream=True, stream_options={"include_usage": True})
    *_, finish, last = events(reply.text)
    assert finish["choices"][0]["finish_reason"] == "stop"
    assert "llm_fallback" not in finish
    assert last["choices"] == []
    assert last["usage"] == {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10}
    assert last["llm_fallback"]["deployment"] == "only"


async def test_nothing_of_the_messages_is_lost_or_made_up() -> None:
    """Names, reasoning, unknown fields and parts, unknown parameters: they reach the model server as they came."""
    messages = [
        {"role": "system", "content": "Be brief.", "x_cache": {"ttl": 5}},
        {"role": "user", "name": "bob", "content": [{"type": "text", "text": "look", "x_mark": 1}]},
        {
            "role": "assistant",
            "content": "hm",
            "reasoning_content": "thinking",
            "tool_calls": [{"id": "c1", "type": "function", "function": {"name": "f", "arguments": '{"a":  1.10}'}}],
        },
        {"role": "tool", "tool_call_id": "c1", "content": "42"},
    ]
    words = {
        "temperature": 0.5,
        "stop": ["END"],
        "seed": 7,
        "logit_bias": {"5": 1},
        "tools": [{"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}}],
        "tool_choice": "auto",
        "min_p": 0.1,
        "chat_template_kwargs": {"enable_thinking": False},
        "x_of_nobody": [1, {"a": None}],
    }
    with FakeServer({"only": Reply("done")}) as server:
        with in_process(server.spec()) as client:
            for _ in range(3):  # Translated by litellm, then known.
                await client.post(PATH, json={"messages": messages, **words, "user": None})
        received = server.received("only")
    assert len(received) == 3
    for request in received:
        assert request.body["messages"] == messages
        assert {name: request.body[name] for name in words} == words


async def test_arguments_of_a_history_that_no_server_could_read_reach_it_as_an_object() -> None:
    """vLLM and others refuse the whole request otherwise. What the model wrote stands in it."""
    broken = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": '{"path": "/tm'}}
    with FakeServer({"only": Reply("done")}) as server:
        with in_process(server.spec()) as client:
            history = [
                {"role": "user", "content": "go"},
                {"role": "assistant", "content": None, "tool_calls": [broken]},
                {"role": "tool", "tool_call_id": "c1", "content": "not understood"},
            ]
            reply = await client.post(PATH, json={"messages": history})
        sent = server.received("only")[0].body["messages"][1]["tool_calls"][0]["function"]["arguments"]
    assert reply.status_code == 200
    assert json.loads(sent) == {"unreadable_arguments": '{"path": "/tm'}


TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "weather",
            "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
        },
    }
]


async def test_a_tool_call_is_openais_plain_and_streamed() -> None:
    """Whole without an index and with null for a text; in parts with one, the name and the id only once."""
    model = fake_chat_model({"only": [Reply(tool_calls=[{"name": "weather", "args": {"city": "Paris"}}])] * 2})
    whole = (await asked(model, tools=TOOLS)).json()["choices"][0]
    (call,) = whole["message"]["tool_calls"]
    assert whole["finish_reason"] == "tool_calls"
    assert whole["message"]["content"] is None
    assert set(call) == {"id", "type", "function"}
    assert json.loads(call["function"]["arguments"]) == {"city": "Paris"}
    chunks = events((await asked(model, tools=TOOLS, stream=True)).text)
    parts = [part for chunk in chunks for part in chunk["choices"][0]["delta"].get("tool_calls", ())]
    first, *rest = parts
    assert first["function"]["name"] == "weather"
    assert first["id"]
    assert rest
    assert all(set(part) == {"index", "function"} and set(part["function"]) == {"arguments"} for part in rest)
    assert json.loads("".join(part["function"]["arguments"] for part in parts)) == {"city": "Paris"}
    assert chunks[-1]["choices"][0]["finish_reason"] == "tool_calls"


async def test_several_choices_are_told_apart_and_refused_in_a_stream() -> None:
    """The engine reads one choice of a stream."""
    with FakeServer({"only": Reply("fine")}) as server:
        choices = (await asked(server.spec(), n=3)).json()["choices"]
        refused = await asked(server.spec(), n=3, stream=True)
    assert [choice["index"] for choice in choices] == [0, 1, 2]
    assert refused.status_code == 400
    assert refused.json()["error"]["param"] == "n"


async def test_metadata_is_whose_money_is_spent_and_goes_to_nobody() -> None:
    """A budget per tenant holds for callers over HTTP as it does in Python."""
    ended: list[Any] = []
    with FakeServer({"only": Reply("fine", usage=(1000, 1000))}) as server:
        spec = server.spec(
            deployments={"only": {"price": {"output_per_million": 1_000_000}}},
            budget={"usd_per_day": 1500, "per": "tenant"},
        )
        with in_process(spec, listeners=[ended.append]) as client:
            statuses = [
                (await client.post(PATH, json=question(metadata={"tenant": tenant}, max_tokens=1000))).status_code
                for tenant in ("acme", "acme", "other")
            ]
        assert all("metadata" not in request.body for request in server.received())
    assert statuses == [200, 429, 200]
    assert ended[-1].metadata == {"tenant": "other"}


async def test_a_conversation_that_metadata_names_stays_with_one_deployment() -> None:
    """With `affinity: thread`; by the beginnings of their prompts alone, these would be spread."""
    deployments = {name: {"model": f"openai/{name}"} for name in ("a", "b", "c")}
    chain = {"tiers": [["a", "b", "c"]], "affinity": "thread"}
    model = fake_chat_model(spec={"deployments": deployments, "chains": {"main": chain}})
    with in_process(model) as client:
        for number in range(12):
            await client.post(PATH, json=question(f"{number}", metadata={"thread_id": "one"}))
        assert len({request.deployment for request in model.received()}) == 1
        for number in range(12):
            await client.post(PATH, json=question(f"{number}"))
    assert len({request.deployment for request in model.received()}) > 1


async def test_a_budget_that_is_used_up_is_told_as_openai_tells_it() -> None:
    """And not asked again by its clients, whom 429 alone would invite."""
    model = fake_chat_model(
        {"only": Reply("fine", usage=(1, 1))},
        spec={
            "deployments": {"only": {"model": "openai/gpt-4.1", "price": {"per_request": 1}}},
            "chains": {"main": {"tiers": ["only"], "budget": {"usd_per_day": 1}}},
        },
    )
    assert (await asked(model)).status_code == 200
    reply = await asked(model)
    assert reply.status_code == 429
    assert reply.json()["error"]["code"] == "budget_exceeded"
    assert reply.headers["x-should-retry"] == "false"


FAILING: dict[Any, Any] = {
    Fail(429): (429, "rate_limit_exceeded"),
    Fail("quota_exhausted"): (429, "insufficient_quota"),
    Fail("context_window"): (400, "context_length_exceeded"),
    Fail("content_policy"): (400, "content_policy_violation"),
    Fail(400): (400, "bad_request"),
    Fail(401): (502, "upstream_auth"),
    Fail(404): (502, "upstream_not_found"),
    Fail(500): (502, "server_error"),
    Fail(503): (503, "overloaded"),
    Cut(after_chunks=0): (502, "connection"),
}


@pytest.mark.parametrize("streamed", [False, True], ids=["plain", "streamed"])
@pytest.mark.parametrize("step", FAILING, ids=lambda step: str(getattr(step, "failure", "cut")))
async def test_a_chain_without_an_answer_has_the_status_of_its_failure(step: Any, streamed: bool) -> None:
    """Before the first content of a stream, too: its head waits for it."""
    model = fake_chat_model({"only": step}, retries={"max": 0})
    reply = await asked(model, stream=streamed)
    error = reply.json()["error"]
    assert (reply.status_code, error["code"]) == FAILING[step]
    assert "only" in error["message"]
    assert reply.json()["llm_fallback"]["attempts"][-1]["outcome"] == "failed"
    assert reply.headers["x-llm-fallback-attempts"] == "1"
    assert ("retry-after" in reply.headers) != (reply.headers.get("x-should-retry") == "false")


async def test_every_failure_there_is_has_a_status() -> None:
    """Of the engine's words none is forgotten."""
    assert set(FAILURES) == {*get_args(Failure), "budget"}


async def test_retry_after_is_when_somebody_may_be_asked_again() -> None:
    """The soonest of the chain's deployments, rounded up; not the first one's."""
    model = fake_chat_model(
        {"primary": Fail(429, retry_after=200), "backup": Fail(429, retry_after=19.5)}, retries={"max": 0}
    )
    reply = await asked(model)
    assert reply.status_code == 429
    assert reply.headers["retry-after"] == "20"


async def test_a_stream_that_breaks_off_ends_with_an_error_and_without_done() -> None:
    """Who passes the error over would take a part of a reply for the whole of it."""
    with FakeServer({"only": Cut(after_chunks=2)}) as server:
        reply = await asked(server.spec(), stream=True)
    *chunks, last = events(reply.text)
    assert reply.status_code == 200
    assert text_of(chunks)
    assert last["error"]["code"] == "stream_broken"
    assert last["llm_fallback"]["attempts"][0]["failure"] == "stream_broken"
    assert "[DONE]" not in reply.text


async def test_a_stream_that_another_deployment_goes_on_with_is_one_stream() -> None:
    """With `on_stream_break: continue`: one role, one finish reason, and the facts tell of the seam."""
    model = fake_chat_model({"primary": Cut(after_chunks=2), "backup": "and more"}, on_stream_break="continue")
    chunks = events((await asked(model, stream=True)).text)
    assert [chunk["choices"][0]["delta"].get("role") for chunk in chunks].count("assistant") == 1
    assert [chunk["choices"][0]["finish_reason"] for chunk in chunks].count("stop") == 1
    assert len({chunk["model"] for chunk in chunks}) == 1
    assert chunks[-1]["llm_fallback"]["stitched"] is True


async def test_probabilities_stand_where_openai_has_them() -> None:
    """In the choice, plain and streamed."""
    logprobs = {"content": [{"token": "hi", "logprob": -0.1, "bytes": None, "top_logprobs": []}]}
    said = {"index": 0, "logprobs": logprobs, "finish_reason": "stop"}
    with LoopbackServer(_saying({"choices": [{**said, "message": {"role": "assistant", "content": "hi"}}]})) as server:
        plain = await asked(_spec_of(server))
    with LoopbackServer(_saying({"choices": [{**said, "delta": {"content": "hi"}}]}, streamed=True)) as server:
        streamed = await asked(_spec_of(server), stream=True)
    assert plain.json()["choices"][0]["logprobs"] == logprobs
    assert events(streamed.text)[0]["choices"][0]["logprobs"] == logprobs


async def said_by_a_server(said: dict[str, Any], **beside: Any) -> tuple[Any, list[Any]]:
    """What a caller gets, plain and streamed, of a server that says it in both."""
    rest = {"index": 0, "finish_reason": "stop"}
    with LoopbackServer(_saying({"choices": [{**rest, "message": {"role": "assistant", **said}}], **beside})) as server:
        plain = await asked(_spec_of(server))
    with LoopbackServer(_saying({"choices": [{**rest, "delta": said}], **beside}, streamed=True)) as server:
        streamed = await asked(_spec_of(server), stream=True)
    return plain.json(), events(streamed.text)


async def test_the_model_server_s_own_names_stand_where_openai_has_them() -> None:
    """Plain and streamed."""
    plain, chunks = await said_by_a_server({"content": "hi"}, id="chatcmpl-7", system_fingerprint="fp_1")
    assert plain["id"] == "chatcmpl-7"
    assert plain["system_fingerprint"] == chunks[-1]["system_fingerprint"] == "fp_1"


async def test_what_a_reply_was_looked_up_in_stands_beside_the_choices() -> None:
    """Plain and streamed, under litellm's name."""
    looked_up = [{"webSearchQueries": ["capital of France"]}]
    plain, chunks = await said_by_a_server({"content": "Paris"}, vertex_ai_grounding_metadata=looked_up)
    assert plain["vertex_ai_grounding_metadata"] == looked_up
    assert [chunk["vertex_ai_grounding_metadata"] for chunk in chunks[:-1]] == [looked_up]
    assert text_of(chunks) == "Paris"


async def test_sound_is_a_field_of_the_message() -> None:
    """Where OpenAI's clients look for it, plain and streamed."""
    sound = {"id": "audio_1", "data": "UklGRg==", "transcript": "hi"}
    plain, (first, *_) = await said_by_a_server({"content": "hi", "audio": sound})
    assert plain["choices"][0]["message"]["audio"] == first["choices"][0]["delta"]["audio"] == sound


async def test_a_thought_comes_without_an_empty_text_beside_it() -> None:
    """As servers that think send it; a text that comes with it is kept."""
    _, (thought, *_) = await said_by_a_server({"reasoning_content": "Hm."})
    _, (both, *_) = await said_by_a_server({"reasoning_content": "Hm.", "content": "hi"})
    assert thought["choices"][0]["delta"] == {"role": "assistant", "reasoning_content": "Hm."}
    assert both["choices"][0]["delta"] == {"role": "assistant", "reasoning_content": "Hm.", "content": "hi"}


async def test_signed_thoughts_come_with_who_signed_them_and_go_back_to_nobody_else() -> None:
    """A client that sends a message back as it got it sends each deployment its own thoughts."""
    block = {"type": "thinking", "thinking": "Hm.", "signature": "c2ln"}
    said = {"content": [block, {"type": "text", "text": "hi"}], "stop_reason": "end_turn", "role": "assistant"}
    whole = {"type": "message", "id": "msg_1", "usage": {"input_tokens": 1, "output_tokens": 1}, **said}
    with LoopbackServer(_saying(whole)) as server, FakeServer({"other": Reply("fine")}) as other:
        spec = other.spec()
        spec["deployments"]["claude"] = {
            "model": "anthropic/claude-sonnet-4-5",
            "api_base": f"http://{server.host}",
            "api_key": "sk-1",
        }
        spec["chains"]["claude"] = {"tiers": ["claude"]}
        with in_process({**spec, "default_chain": "claude"}) as client:
            (choice,) = (await client.post(PATH, json=question(max_tokens=9))).json()["choices"]
            history = [*question()["messages"], choice["message"], {"role": "user", "content": "and?"}]
            await client.post(PATH, json={"model": "default", "messages": history})
            await client.post(PATH, json={"messages": history, "max_tokens": 9})
        sent = _Saying.received[-1]["messages"][1]["content"]
        to_other = other.received("other")[0].body["messages"][1]
    assert choice["message"]["thinking_blocks"][0]["signature"] == "c2ln"
    assert to_other == {"role": "assistant", "content": "hi", "reasoning_content": "Hm."}
    assert sent[0] == block


class _Saying(BaseHTTPRequestHandler):
    """Says the same to everybody."""

    document: dict[str, Any]
    streamed: bool
    received: ClassVar[list[Any]] = []

    def do_POST(self) -> None:
        self.received.append(json.loads(self.rfile.read(int(self.headers["content-length"]))))
        body = json.dumps(self.document).encode()
        if self.streamed:
            body = b"data: " + body + b"\n\ndata: [DONE]\n\n"
        self.send_response(200)
        self.send_header("content-type", "text/event-stream" if self.streamed else "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: object) -> None:
        """Nobody reads it."""


def _saying(document: dict[str, Any], *, streamed: bool = False) -> type[BaseHTTPRequestHandler]:
    return type("Saying", (_Saying,), {"document": document, "streamed": streamed})


def _spec_of(server: LoopbackServer) -> dict[str, Any]:
    only = {"backend": "openai-compatible", "model": "m", "api_base": f"http://{server.host}"}
    return {"deployments": {"only": only}, "chains": {"main": {"tiers": ["only"]}}}


async def test_a_thought_beside_something_else_is_left_out_and_named() -> None:
    """Part of what was said is not what was said."""
    thought = {"type": "thinking", "thinking": "hm", "signature": "s", "origin": "anthropic/claude-sonnet-4-5"}
    said = {"role": "assistant", "content": "hello", "thinking_blocks": [thought, 3]}
    with FakeServer({"only": "fine"}) as server, in_process(server.spec()) as client:
        reply = await client.post(PATH, json={"messages": [said, {"role": "user", "content": "hi"}]})
    (attempt,) = reply.json()["llm_fallback"]["attempts"]
    assert attempt["dropped_content"] == ["thinking"]


@pytest.mark.parametrize("name", ["thinking_blocks", "left_out"])
@pytest.mark.parametrize("value", [3, True, "x", [3], [[1]], {"a": 1}, None])
async def test_what_a_caller_writes_in_the_place_of_our_own_marks_is_left_out(name: str, value: Any) -> None:
    """It is no thought that somebody signed, and no failure of the server."""
    said = {"role": "assistant", "content": "hello", name: value}
    with FakeServer({"only": "fine"}) as server, in_process(server.spec()) as client:
        reply = await client.post(PATH, json={"messages": [said, {"role": "user", "content": "hi"}]})
        (request,) = server.received()
    assert reply.status_code == 200
    assert request.body["messages"][0] == {"role": "assistant", "content": "hello"}


@pytest.mark.parametrize("streamed", [False, True], ids=["plain", "streamed"])
@pytest.mark.parametrize("when", ["before", "after"])
async def test_a_client_that_leaves_ends_the_request_to_the_model_server(streamed: bool, when: str) -> None:
    """At once, whether the first content came or not; and the call is told as cancelled."""
    ended: list[Any] = []
    step = Stall() if when == "before" or not streamed else Stall(after_chunks=2)
    with FakeServer({"only": step}) as server, served(server.spec(), listeners=[ended.append]) as url:
        async with httpx.AsyncClient() as client:
            with pytest.raises(httpx.ReadTimeout):
                await client.post(url + PATH, json=question(stream=streamed), timeout=1)
        async with asyncio.timeout(10):
            while not (ended and server.received("only")[0].client_gone_at):
                await asyncio.sleep(0.01)
    assert ended[-1].failure == "cancelled"


@pytest.mark.parametrize(
    ("body", "param"),
    [
        (b"", None),
        (b"{", None),
        (b"[]", None),
        (b'{"messages": NaN}', None),
        (b'{"a": ' * 300 + b"1" + b"}" * 300, None),
        ({}, "messages"),
        ({"messages": []}, "messages"),
        ({"messages": "hi"}, "messages"),
        ({"messages": ["hi"]}, "messages"),
        ({"messages": [{"content": "hi"}]}, "messages[0].role"),
        ({"messages": [{"role": "user", "content": 5}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": [5]}]}, "messages[0].content"),
        ({"messages": [{"role": "tool", "content": "hi"}]}, "messages[0].tool_call_id"),
        ({"messages": [{"role": "assistant", "tool_calls": [{"function": 5}]}]}, "messages[0].tool_calls"),
        (question(stream="yes"), "stream"),
        (question(stream_options=5), "stream_options"),
        (question(metadata="acme"), "metadata"),
        (question(tools={}), "tools"),
        (question(model=5), "model"),
        (question(n="2", stream=True), "n"),
        (question(api_base="http://evil.example"), "api_base"),
        (question(api_key="sk-1"), "api_key"),
        (question(extra_headers={}), "extra_headers"),
        (question(timeout=1e9), "timeout"),
    ],
)
async def test_a_request_that_is_none_is_refused_with_the_name_of_what_is_wrong(body: Any, param: str | None) -> None:
    """No deployment is asked, and nothing a caller says reaches into the server: no address, no key, no deadline."""
    model = fake_chat_model({"only": "fine"})
    with in_process(model) as client:
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        reply = await client.post(PATH, content=content)
    assert reply.status_code == 400
    assert reply.json()["error"]["param"] == param
    assert reply.json()["error"]["type"] == "invalid_request_error"
    assert model.received() == []


async def test_an_unknown_model_is_404_with_the_nearest_and_no_model_is_the_default_chain() -> None:
    """Models are the chains."""
    model = fake_chat_model({"only": "fine"})
    unknown = await asked(model, model="defualt")
    assert unknown.status_code == 404
    assert unknown.json()["error"]["code"] == "model_not_found"
    assert "did you mean 'default'?" in unknown.json()["error"]["message"]
    assert (await asked(model)).json()["llm_fallback"]["chain"] == "default"


async def test_a_client_that_leaves_while_it_still_asks_gets_nothing_and_nobody_is_asked() -> None:
    """Half a question is none."""
    with FakeServer({"only": Reply("fine")}) as server:
        sent = await _through_asgi(
            create_app(server.spec()),
            {"type": "http.request", "body": b'{"messages": [', "more_body": True},
            {"type": "http.disconnect"},
        )
        assert server.received("only") == []
    assert sent == []


async def test_what_a_server_says_after_the_question_is_no_departure() -> None:
    """Some hand on an empty part once more."""
    body = json.dumps(question()).encode()
    with FakeServer({"only": "fine"}) as server:
        app = create_app(server.spec())
        sent = await _through_asgi(app, {"type": "http.request", "body": body}, {"type": "http.request", "body": b""})
    assert sent[0]["status"] == 200


async def test_a_body_without_end_is_refused_before_it_is_read() -> None:
    """413, and nothing is kept of it."""
    with in_process(fake_chat_model()) as client:
        reply = await client.post(PATH, content=b" " * (LARGEST_BODY + 1))
    assert reply.status_code == 413


async def test_a_function_of_the_users_that_fails_is_500_and_says_nothing_of_itself() -> None:
    """It is for the log."""

    def accept(message: Any) -> bool:
        raise RuntimeError("a secret of the house")

    reply = await asked(fake_chat_model({"only": "fine"}, accept=accept))
    assert reply.status_code == 500
    assert reply.json()["error"]["type"] == "server_error"
    assert "secret" not in reply.text


SCOPE = {
    "type": "http",
    "method": "POST",
    "path": PATH,
    "headers": [],
    "client": ("127.0.0.1", 1),
    "query_string": b"",
    "root_path": "",
}


async def _through_asgi(app: Any, *messages: dict[str, Any]) -> list[Any]:
    """What an application sends to a client of which it gets these messages, and then none."""
    parts, sent = iter(messages), []

    async def receive() -> Any:
        return next(parts, None) or await asyncio.get_running_loop().create_future()

    async def send(message: Any) -> None:
        sent.append(message)

    await app(SCOPE, receive, send)
    return sent


MOST_CALLS = 1000
"""Function calls of Python that a request may take, with all that a fake deployment does about it: 914, and a tenth."""


async def test_a_request_takes_few_function_calls() -> None:
    """Counted, because they are the same on every machine, unlike milliseconds."""
    app = create_app(fake_chat_model({"only": "fine"}))
    asks = {"type": "http.request", "body": json.dumps(question()).encode()}
    for _ in range(3):
        await _through_asgi(app, asks)
    calls = 0

    def count(frame: Any, event: str, argument: Any) -> None:
        nonlocal calls
        calls += event in ("call", "c_call")

    sys.setprofile(count)
    try:
        head, *_ = await _through_asgi(app, asks)
    finally:
        sys.setprofile(None)
    assert head["status"] == 200
    assert calls < MOST_CALLS


async def test_arguments_of_a_tool_call_that_are_no_text_are_refused_with_their_place() -> None:
    """OpenAI's are JSON in a text; nobody is asked."""
    call = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": {"a": 1}}}
    model = fake_chat_model({"only": "fine"})
    with in_process(model) as client:
        reply = await client.post(PATH, json=question(messages=[{"role": "assistant", "tool_calls": [call]}]))
    assert (reply.status_code, model.received()) == (400, [])
    assert reply.json()["error"]["message"].endswith("must have arguments that are a text")
