"""Agents on models that think: each step gets back the thoughts it goes on from, whoever answers the others."""

from __future__ import annotations

import base64
import json
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

import litellm
import pytest
from langchain.agents import create_agent
from langchain_core.load import dumps, loads
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, ToolMessage
from langchain_core.tools import tool
from langchain_litellm import ChatLiteLLMRouter
from litellm.llms.vertex_ai.vertex_llm_base import VertexBase
from pydantic import BaseModel

from llm_fallback import build_chat_model
from llm_fallback.testing import Fail, FakeServer, Reply
from tests.asking import ask
from tests.corpus.stage import framed
from tests.litellm_adapter.test_direct_and_relayed_alike import heard

BUDGET = {"thinking": {"type": "enabled", "budget_tokens": 1024}, "max_tokens": 4096}
FORCED = "Thinking may not be enabled when tool_choice forces tool use."
MISSING = "Expected `thinking` or `redacted_thinking`, but found `tool_use`."
MOVED = "`thinking` or `redacted_thinking` blocks in the latest assistant message cannot be modified."
AGENT_MODES = ("invoke", "ainvoke", "stream", "astream")


@tool
def weather(city: str) -> str:
    """The weather in a city."""
    return f"rain in {city}"


class Claude:
    """Speaks Messages on the loopback as Anthropic does of a model that thinks up to a budget, and refuses what
    Anthropic refuses. It calls the tool at each of its first `calls` steps in a turn."""

    def __init__(
        self,
        calls: int = 2,
        *,
        thinks_at_each_step: bool = True,
        downs: frozenset[int] = frozenset(),
        is_redacted: bool = False,
    ) -> None:
        self.calls, self.thinks_at_each_step, self.downs, self.is_redacted = (
            calls,
            thinks_at_each_step,
            downs,
            is_redacted,
        )
        self.asked: list[dict[str, Any]] = []

    def answer(self, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        self.asked.append(body)
        if len(self.asked) in self.downs:
            return 529, _error("overloaded_error", "Overloaded")
        turn = _turn(body["messages"])
        thinks = (body.get("thinking") or {}).get("type") == "enabled"
        if thinks and (body.get("tool_choice") or {}).get("type") in ("any", "tool"):
            return 400, _error("invalid_request_error", FORCED)
        if thinks and turn and turn[0][0]["type"] not in ("thinking", "redacted_thinking"):
            return 400, _error("invalid_request_error", MISSING)
        if any(block != self.thought(step) for step, said in enumerate(turn) for block in _thoughts(said)):
            return 400, _error("invalid_request_error", MOVED)
        step, content = len(turn), []
        if thinks and (step == 0 or self.thinks_at_each_step):
            content.append(self.thought(step))
        if step < self.calls and body.get("tools"):
            name = body["tools"][0]["name"]
            content.append({"type": "tool_use", "id": f"toolu_{step}", "name": name, "input": {"city": "Oslo"}})
            return 200, _message(content, "tool_use")
        return 200, _message([*content, {"type": "text", "text": "It rains."}], "end_turn")

    def thought(self, step: int) -> dict[str, str]:
        if self.is_redacted:
            return {"type": "redacted_thinking", "data": f"EmwKAhg{step}"}
        return {"type": "thinking", "thinking": f"step {step}", "signature": f"c2ln{step}"}


def _turn(messages: list[dict[str, Any]]) -> list[list[dict[str, Any]]]:
    """What the assistant said since the user last spoke."""
    turn: list[list[dict[str, Any]]] = []
    for message in messages:
        if message["role"] == "assistant":
            turn.append(message["content"])
        elif not any(block["type"] == "tool_result" for block in message["content"]):
            turn = []
    return turn


def _thoughts(content: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [block for block in content if block["type"] in ("thinking", "redacted_thinking")]


def _error(kind: str, text: str) -> dict[str, Any]:
    return {"type": "error", "error": {"type": kind, "message": text}}


def _message(content: list[dict[str, Any]], stop: str) -> dict[str, Any]:
    usage = {"input_tokens": 5, "output_tokens": 5}
    whole = {"id": "msg_1", "type": "message", "role": "assistant", "model": "claude-sonnet-4-5", "content": content}
    return {**whole, "stop_reason": stop, "stop_sequence": None, "usage": usage}


def _frames(message: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield {"type": "message_start", "message": {**message, "content": [], "stop_reason": None}}
    for at, block in enumerate(message["content"]):
        kind = block["type"]
        if kind == "thinking":
            begun = {"type": kind, "thinking": "", "signature": ""}
            deltas = [{"type": "thinking_delta", "thinking": part} for part in block["thinking"].partition(" ")]
            deltas.append({"type": "signature_delta", "signature": block["signature"]})
        elif kind == "redacted_thinking":
            begun, deltas = block, []
        elif kind == "tool_use":
            begun, deltas = {**block, "input": {}}, [{"type": "input_json_delta", "partial_json": '{"city": "Oslo"}'}]
        else:
            begun, deltas = {"type": "text", "text": ""}, [{"type": "text_delta", "text": block["text"]}]
        yield {"type": "content_block_start", "index": at, "content_block": begun}
        yield from ({"type": "content_block_delta", "index": at, "delta": delta} for delta in deltas)
        yield {"type": "content_block_stop", "index": at}
    yield {"type": "message_delta", "delta": {"stop_reason": message["stop_reason"]}, "usage": message["usage"]}
    yield {"type": "message_stop"}


class Converse:
    """Claude as Bedrock has it: other names for the same, and the bytes of what is redacted in base64 once more."""

    def asked(self, body: dict[str, Any]) -> dict[str, Any]:
        """A request in Anthropic's form."""
        tools = body.get("toolConfig", {})
        ((choice, _),) = tools.get("toolChoice", {"auto": {}}).items()
        return {
            **body.get("additionalModelRequestFields", {}),
            "messages": [
                {"role": one["role"], "content": [self._from_block(block) for block in one["content"]]}
                for one in body["messages"]
            ],
            "tools": [one["toolSpec"] for one in tools.get("tools", ())],
            "tool_choice": {"type": choice},
        }

    def _from_block(self, block: dict[str, Any]) -> dict[str, Any]:
        ((name, said),) = block.items()
        if name == "reasoningContent" and "redactedContent" in said:
            return {"type": "redacted_thinking", "data": base64.b64decode(said["redactedContent"]).decode()}
        if name == "reasoningContent":
            text = said["reasoningText"]
            return {"type": "thinking", "thinking": text["text"], "signature": text["signature"]}
        return {"type": {"toolUse": "tool_use", "toolResult": "tool_result"}.get(name, name), name: said}

    def answer(self, status: int, document: dict[str, Any], *, streamed: bool) -> tuple[str, bytes]:
        if status != 200:
            message = f"The model returned the following errors: {document['error']['message']}"
            return "application/json", json.dumps({"message": message}).encode()
        blocks = [self._to_block(block) for block in document["content"]]
        tokens = {"inputTokens": 5, "outputTokens": 5, "totalTokens": 10}
        if streamed:
            frames = [frame for at, block in enumerate(blocks) for frame in self._frames(at, block)]
            end = {"event": "messageStop", "data": {"stopReason": document["stop_reason"]}}
            count = {"event": "metadata", "data": {"usage": tokens}}
            start = {"event": "messageStart", "data": {"role": "assistant"}}
            return "application/vnd.amazon.eventstream", b"".join(framed([start, *frames, end, count], "aws"))
        output = {"message": {"role": "assistant", "content": blocks}}
        whole = {"output": output, "stopReason": document["stop_reason"], "usage": tokens}
        return "application/json", json.dumps(whole).encode()

    def _to_block(self, block: dict[str, Any]) -> dict[str, Any]:
        if block["type"] == "redacted_thinking":
            return {"reasoningContent": {"redactedContent": base64.b64encode(block["data"].encode()).decode()}}
        if block["type"] == "thinking":
            text = {"text": block["thinking"], "signature": block["signature"]}
            return {"reasoningContent": {"reasoningText": text}}
        if block["type"] == "tool_use":
            return {"toolUse": {"toolUseId": block["id"], "name": block["name"], "input": block["input"]}}
        return {"text": block["text"]}

    def _frames(self, at: int, block: dict[str, Any]) -> Iterator[dict[str, Any]]:
        deltas: list[dict[str, Any]] = [block]
        if "toolUse" in block:
            tool = dict(block["toolUse"])
            deltas = [{"toolUse": {"input": json.dumps(tool.pop("input"))}}]
            yield {"event": "contentBlockStart", "data": {"contentBlockIndex": at, "start": {"toolUse": tool}}}
        elif "reasoningText" in block.get("reasoningContent", {}):
            text = block["reasoningContent"]["reasoningText"]
            deltas = [{"reasoningContent": {"text": part}} for part in text["text"].partition(" ")]
            deltas.append({"reasoningContent": {"signature": text["signature"]}})
        for delta in deltas:
            yield {"event": "contentBlockDelta", "data": {"contentBlockIndex": at, "delta": delta}}
        yield {"event": "contentBlockStop", "data": {"contentBlockIndex": at}}


class Messages:
    """Claude as Anthropic has it, and Vertex."""

    def asked(self, body: dict[str, Any]) -> dict[str, Any]:
        return body

    def answer(self, status: int, document: dict[str, Any], *, streamed: bool) -> tuple[str, bytes]:
        if status != 200 or not streamed:
            return "application/json", json.dumps(document).encode()
        said = "".join(f"event: {one['type']}\ndata: {json.dumps(one)}\n\n" for one in _frames(document))
        return "text/event-stream", said.encode()


class Invoke(Messages):
    """Claude behind Bedrock's older call: Anthropic's own events, each in base64 within one of Amazon's."""

    def answer(self, status: int, document: dict[str, Any], *, streamed: bool) -> tuple[str, bytes]:
        if status != 200 or not streamed:
            return super().answer(status, document, streamed=False)
        events = (base64.b64encode(json.dumps(one).encode()).decode() for one in _frames(document))
        frames = [{"event": "chunk", "data": {"bytes": event}} for event in events]
        return "application/vnd.amazon.eventstream", b"".join(framed(frames, "aws"))


AWS = {
    "aws_access_key_id": "AKIATESTTESTTEST",
    "aws_secret_access_key": "secret-test-012345",
    "aws_region_name": "us-east-1",
}
PLATFORMS: Mapping[str, Mapping[str, Any]] = {
    "anthropic": {"model": "anthropic/claude-sonnet-4-5", "api_key": "k"},
    "vertex": {
        "model": "vertex_ai/claude-sonnet-4-5@20250929",
        "params": {**BUDGET, "vertex_project": "p", "vertex_location": "us-east5"},
    },
    "bedrock": {"model": "bedrock/us.anthropic.claude-sonnet-4-5-20250929-v1:0", "params": {**BUDGET, **AWS}},
    "invoke": {"model": "bedrock/invoke/us.anthropic.claude-sonnet-4-5-20250929-v1:0", "params": {**BUDGET, **AWS}},
}


@pytest.fixture(autouse=True)
def token_of_google(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody is asked for one."""

    async def token(*_: object, **__: object) -> tuple[str, str]:
        return "ya29.token", "p"

    monkeypatch.setattr(VertexBase, "_ensure_access_token_async", token)
    monkeypatch.setattr(VertexBase, "_ensure_access_token", lambda *_, **__: ("ya29.token", "p"))


@contextmanager
def serving(claude: Claude, platform: str = "anthropic", **own: Any) -> Iterator[dict[str, Any]]:
    """The deployment that Claude is, with a budget to think."""
    spoken = {"bedrock": Converse, "invoke": Invoke}.get(platform, Messages)()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *args: Any) -> None:
            """Nobody reads it."""

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            status, document = claude.answer(spoken.asked(body))
            streamed = bool(body.get("stream")) or "stream" in self.path.rpartition("/")[2]
            kind, said = spoken.answer(status, document, streamed=streamed)
            self.send_response(status)
            self.send_header("content-type", kind)
            self.send_header("content-length", str(len(said)))
            self.end_headers()
            self.wfile.write(said)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        url = f"http://127.0.0.1:{server.server_port}"
        yield {"params": BUDGET, **PLATFORMS[platform], "api_base": url, **own}
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def chain(*tiers: str, **deployments: Mapping[str, Any]) -> dict[str, Any]:
    return {"deployments": deployments, "chains": {"main": {"tiers": list(tiers)}}}


async def run(model: Any, mode: str, **words: Any) -> list[BaseMessage]:
    """What an agent with the tool comes to say."""
    agent: Any = create_agent(model, [weather], **words)
    given = {"messages": [HumanMessage("weather in Oslo?")]}
    if mode == "invoke":
        messages = agent.invoke(given)["messages"]
    elif mode == "ainvoke":
        messages = (await agent.ainvoke(given))["messages"]
    elif mode == "stream":
        for _ in agent.stream(given, stream_mode="messages"):
            pass
        messages = list(agent.stream(given, stream_mode="values"))[-1]["messages"]
    else:
        async for _ in agent.astream(given, stream_mode="messages"):
            pass
        messages = [state async for state in agent.astream(given, stream_mode="values")][-1]["messages"]
    return list(messages)


async def steps(model: Any, mode: str) -> list[BaseMessage]:
    """Three steps of a conversation with the tool."""
    history: list[BaseMessage] = [HumanMessage("weather?")]
    for _ in range(3):
        reply = await ask(model.bind_tools([weather]), mode, history)
        history += [reply, *(ToolMessage("rain", tool_call_id=one["id"]) for one in reply.tool_calls)]
    return history


def outcomes(messages: list[BaseMessage]) -> list[tuple[str, list[str]]]:
    """Who answered each step, and what it was asked without."""
    facts = [message.response_metadata["llm_fallback"] for message in messages if isinstance(message, AIMessage)]
    return [(fact["deployment"], list(fact["attempts"][-1].get("dropped_params") or ())) for fact in facts]


@pytest.mark.parametrize("way", ["direct", "relayed"])
@pytest.mark.parametrize("mode", AGENT_MODES)
@pytest.mark.parametrize("thinks_at_each_step", [True, False])
async def test_an_agent_thinks_over_three_steps(way, mode, thinks_at_each_step):
    """Every thought of the turn goes back as it was said, and nothing is left out."""
    claude = Claude(2, thinks_at_each_step=thinks_at_each_step)
    with serving(claude) as own, heard(way), build_chat_model(chain("claude", claude=own)) as model:
        messages = await run(model, mode)
    assert messages[-1].text == "It rains."
    assert outcomes(messages) == [("claude", [])] * 3
    for body in claude.asked:
        assert body["thinking"]["type"] == "enabled"
    sent = [[_thoughts(said) for said in _turn(body["messages"])] for body in claude.asked[-3:]]
    first = [claude.thought(0)]
    second = [claude.thought(1)] if thinks_at_each_step else []
    assert sent == [[], [first], [first, second]]


@pytest.mark.parametrize("way", ["direct", "relayed"])
@pytest.mark.parametrize("mode", AGENT_MODES)
@pytest.mark.parametrize("is_redacted", [False, True])
@pytest.mark.parametrize("platform", PLATFORMS)
async def test_on_every_platform_an_agent_gets_its_thoughts_back(platform, is_redacted, mode, way):
    """As whoever signed them said them, also what nobody else can read."""
    claude = Claude(2, is_redacted=is_redacted)
    with serving(claude, platform) as own, heard(way), build_chat_model(chain("claude", claude=own)) as model:
        messages = await run(model, mode)
    assert messages[-1].text == "It rains."
    assert outcomes(messages) == [("claude", [])] * 3
    sent = [[_thoughts(said) for said in _turn(body["messages"])] for body in claude.asked[-3:]]
    assert sent == [[], [[claude.thought(0)]], [[claude.thought(0)], [claude.thought(1)]]]


@pytest.mark.parametrize("mode", ["ainvoke", "astream"])
@pytest.mark.parametrize("platform", PLATFORMS)
async def test_an_agent_is_heard_to_say_what_it_says_by_chatlitellmrouter(platform, mode):
    """Where one deployment answers it all, what it is sent at each step is the same."""
    asked = []
    for is_ours in (True, False):
        claude = Claude(2)
        with serving(claude, platform) as own:
            if is_ours:
                with build_chat_model(chain("claude", claude=own)) as model:
                    await run(model, mode)
            else:
                words = {**{name: said for name, said in own.items() if name != "params"}, **own["params"]}
                router = litellm.Router([{"model_name": "claude", "litellm_params": words}])
                await run(ChatLiteLLMRouter(router=router), mode)
        asked.append(claude.asked)
    ours, theirs = asked
    assert ours == theirs


@pytest.mark.parametrize("mode", ["ainvoke", "astream"])
@pytest.mark.parametrize("is_redacted", [False, True])
async def test_an_agent_goes_on_at_another_platform_with_its_thoughts(is_redacted, mode):
    """Of the same model: the one that began is down, and the others take its signatures."""
    one, two = (Claude(2, downs=frozenset(downs), is_redacted=is_redacted) for downs in ({2, 3}, {2}))
    three = Claude(2, is_redacted=is_redacted)
    with (
        serving(one, "bedrock", base_model="claude-sonnet-4-5") as first,
        serving(two, "anthropic") as second,
        serving(three, "vertex", base_model="claude-sonnet-4-5") as third,
        build_chat_model(chain("a", "b", "c", a=first, b=second, c=third)) as model,
    ):
        messages = await steps(model, mode)
    assert outcomes(messages) == [("a", []), ("b", []), ("c", [])]
    sent = [_thoughts(said) for said in _turn(three.asked[-1]["messages"])]
    assert sent == [[three.thought(0)], [three.thought(1)]]


@pytest.mark.parametrize("mode", ["ainvoke", "astream"])
@pytest.mark.parametrize("way", ["direct", "relayed"])
async def test_a_reply_keeps_its_signed_thoughts_with_who_signed_them(way, mode):
    """Where LangChain's users look for them, as plain data."""
    claude = Claude()
    with serving(claude) as own, heard(way), build_chat_model(chain("claude", claude=own)) as model:
        message = await ask(model.bind_tools([weather]), mode)
        again = loads(dumps(message), allowed_objects="messages")
        history = [HumanMessage("hi"), again, ToolMessage("rain", tool_call_id="toolu_0")]
        await ask(model.bind_tools([weather]), mode, history)
    assert message.additional_kwargs["thinking_blocks"] == [
        {**claude.thought(0), "origin": "anthropic/claude-sonnet-4-5"}
    ]
    assert "signed_thinking" not in json.dumps(message.additional_kwargs)
    assert _turn(claude.asked[-1]["messages"])[0][0] == claude.thought(0)


@pytest.mark.parametrize("mode", AGENT_MODES[1::2])
async def test_another_provider_in_the_middle_gets_no_thought_and_leaves_none(mode):
    """Claude overloaded at the second step: the backup is told of no thought, and Claude, back at the third, goes on
    without thinking, as it has no thought of the step before."""
    call = Reply("", tool_calls=[{"name": "weather", "args": {"city": "Bergen"}, "id": "call_1"}])
    claude = Claude(2, downs=frozenset({2}))
    with serving(claude) as own, FakeServer({"backup": [call] * 9}) as server:
        spec = server.spec()["deployments"]["backup"]
        with build_chat_model(chain("claude", "backup", claude=own, backup=spec)) as model:
            history = await steps(model, mode)
            (asked,) = [request.body for request in server.received("backup")]
    assert outcomes(history) == [("claude", []), ("backup", []), ("claude", ["thinking"])]
    assert "thinking_blocks" not in json.dumps(asked)
    assert "origin" not in json.dumps(asked)
    assert "thinking" not in claude.asked[-1]
    assert [_thoughts(said) for said in _turn(claude.asked[-1]["messages"])] == [[], []]


async def test_a_turn_begun_elsewhere_goes_on_without_thinking_and_the_next_thinks_again():
    """The attempt names what it was asked without; nothing of it is kept for later requests."""
    claude = Claude(1)
    begun = [
        HumanMessage("weather?"),
        AIMessage("", tool_calls=[{"name": "weather", "args": {}, "id": "call_1"}]),
        ToolMessage("rain", tool_call_id="call_1"),
    ]
    with serving(claude) as own, build_chat_model(chain("claude", claude=own)) as model:
        first = await model.ainvoke(begun)
        second = await model.ainvoke([*begun, first, HumanMessage("and tomorrow?")])
    assert outcomes([first, second]) == [("claude", ["thinking"]), ("claude", [])]
    assert ["thinking" in body for body in claude.asked] == [False, True]


async def test_thoughts_hold_with_the_same_model_alone():
    """Another of the same provider's is asked without thinking."""
    with serving(Claude(1)) as first, serving(Claude(1), model="anthropic/claude-opus-4-1") as second:
        spec = chain("first", first=first, second=second)
        spec["chains"]["other"] = {"tiers": ["second"]}
        spec["default_chain"] = "main"
        with build_chat_model(spec) as model:
            bound = model.bind_tools([weather])
            reply = await bound.ainvoke("weather?")
            history = [HumanMessage("weather?"), reply, ToolMessage("rain", tool_call_id="toolu_0")]
            changed = await bound.ainvoke(history, chain="other")
    assert outcomes([reply, changed]) == [("first", []), ("second", ["thinking"])]


@pytest.mark.parametrize(
    "model",
    [
        "anthropic/claude-sonnet-4-5",
        "vertex_ai/claude-sonnet-4-5@20250929",
        "bedrock/us.anthropic.claude-sonnet-4-5-20250929-v1:0",
    ],
)
def test_platforms_of_anthropic_take_each_others_thoughts(model):
    """Of the same `base_model`."""
    spec = chain("one", one={"model": model, "base_model": "claude-sonnet-4-5"})
    with build_chat_model(spec) as built:
        assert built.runtime.plan.targets["one"].signer == "anthropic/claude-sonnet-4-5"


class Forecast(BaseModel):
    """A forecast."""

    city: str


@pytest.mark.parametrize("way", ["direct", "relayed"])
@pytest.mark.parametrize("source", ["deployment", "model", "call"])
@pytest.mark.parametrize("mode", ["ainvoke", "astream"])
async def test_a_model_that_thinks_may_choose_where_a_tool_was_to_be_forced(way, source, mode, caplog):
    """Wherever its budget comes from; a warning says so."""
    own = {} if source == "deployment" else {"params": {"max_tokens": 4096}}
    at_build = {"thinking": BUDGET["thinking"]} if source == "model" else {}
    at_call = {"thinking": BUDGET["thinking"]} if source == "call" else {}
    claude = Claude(1)
    with serving(claude, **own) as deployment, heard(way), caplog.at_level(logging.WARNING, "llm_fallback"):
        with build_chat_model(chain("claude", claude=deployment), **at_build) as model:
            message = await ask(model.bind_tools([weather], tool_choice="any"), mode, **at_call)
    assert [call["name"] for call in message.tool_calls] == ["weather"]
    assert claude.asked[0]["tool_choice"]["type"] == "auto"
    assert "tool_choice auto" in caplog.text


async def test_a_form_is_asked_for_by_a_tool_of_a_model_that_thinks():
    """It may choose, and the form is promised all the same: a reply without the call would be rejected."""
    claude = Claude(1)
    with serving(claude) as own, build_chat_model(chain("claude", claude=own)) as model:
        form = model.with_structured_output(Forecast, method="function_calling")
        assert await form.ainvoke("weather in Oslo?") == Forecast(city="Oslo")


async def test_only_the_deployment_that_thinks_may_choose():
    """Its backup does not think, and has to call the tool."""
    call = Reply("", tool_calls=[{"name": "weather", "args": {"city": "Oslo"}}])
    with serving(Claude(downs=frozenset({1}))) as own, FakeServer({"backup": call, "down": Fail(500)}) as server:
        spec = server.spec()["deployments"]["backup"]
        with build_chat_model(chain("claude", "backup", claude=own, backup=spec)) as model:
            await model.bind_tools([weather], tool_choice="any").ainvoke("weather?")
        (asked,) = [request.body for request in server.received("backup")]
    assert asked["tool_choice"] == "required"


async def test_a_model_that_thinks_as_it_sees_fit_is_forced_and_goes_on_with_any_turn():
    """Anthropic asks adaptive thinking for neither thoughts nor choices."""
    claude, call = Claude(1), {"name": "weather", "args": {}, "id": "call_1"}
    begun = [HumanMessage("?"), AIMessage("", tool_calls=[call]), ToolMessage("rain", tool_call_id="call_1")]
    adaptive = {"model": "anthropic/claude-opus-4-6", "params": {"thinking": {"type": "adaptive"}, "max_tokens": 4096}}
    with serving(claude, **adaptive) as own, build_chat_model(chain("claude", claude=own)) as model:
        message = await model.bind_tools([weather], tool_choice="any").ainvoke(begun)
    assert outcomes([message]) == [("claude", [])]
    assert claude.asked[0]["thinking"]["type"] == "adaptive"
    assert claude.asked[0]["tool_choice"]["type"] == "any"
