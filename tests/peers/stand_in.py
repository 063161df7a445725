"""A pytest plugin for the peers' own suites: where their tests ask a model, they ask ours.

Of LangChain's fakes, what makes up the answer stays theirs. It moves behind a server on the loopback, as a provider's
model would; before it stands a `FallbackChatModel` whose first deployment is down. `ChatLiteLLMRouter` becomes a
`FallbackChatModel` over the router's deployments, and the doubles that answer in place of litellm's HTTP clients answer
in place of ours.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Mapping
from functools import cache
from importlib import import_module
from itertools import count
from pathlib import Path
from time import sleep, time
from typing import Any

import httpx
import pytest
import yaml
from aiohttp import web
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, BaseMessage, convert_to_messages
from langchain_core.outputs import ChatGenerationChunk, ChatResult
from litellm.llms.custom_httpx.aiohttp_transport import LiteLLMAiohttpTransport
from pydantic import PrivateAttr

from llm_fallback import FallbackChatModel
from llm_fallback.litellm_adapter.http_client import HTTPClient, HTTPRequest
from llm_fallback.litellm_adapter.reading import HttpxResponse
from llm_fallback.testing import Fail, FakeServer, Reply
from llm_fallback.testing.http_app import FakeApp
from llm_fallback.testing.openai_responses import Envelope
from llm_fallback.testing.playback import ServerAction, play

FAKES = (
    ("langchain_core.language_models.fake_chat_models", "GenericFakeChatModel"),
    ("langchain_core.language_models", "GenericFakeChatModel"),
    ("tests.unit_tests.agents.model", "FakeToolCallingModel"),
    ("tests.model", "FakeToolCallingModel"),
)
"""Their fakes, by the modules from which their tests import them."""

_asked: dict[str, StandIn] = {}
"""Who makes up the answers, by the name of the model that is asked for."""
_numbers = count()


class Theirs(FakeApp):
    """Has the peers' fakes answer."""

    async def _actions(
        self, name: str, body: Mapping[str, Any], number: int, request: web.BaseRequest
    ) -> AsyncGenerator[ServerAction, None]:
        envelope = Envelope(f"chatcmpl-{number}", body["model"], int(time()))
        step = Fail(503) if name == "down" else _asked[body["model"]].answer(body)
        for action in play(step, body, envelope):
            yield action


@cache
def server() -> FakeServer:
    """One for the whole run: a thousand tests would wait for a thousand servers."""
    return FakeServer({"down": None, "theirs": None}, app=Theirs).start()


class StandIn(FallbackChatModel):
    """Our model where one of their fakes stood; a subclass has the fake's fields."""

    _said: list[AIMessage] = PrivateAttr(default_factory=list)
    """What the fake answered, in its own words."""

    def __init__(self, **fields: Any) -> None:
        if "runtime" in fields:
            super().__init__(**fields)
            return
        name = f"model-{next(_numbers)}"
        at = {who: {"model": name, "backend": "openai-compatible", "api_base": server().base(who)} for who in TIERS}
        spec = {"deployments": at, "chains": {"main": {"tiers": list(TIERS), "retries": {"max": 0}}}}
        built = FallbackChatModel(spec=spec)
        super().__init__(spec=built.spec, runtime=built.runtime, **fields)
        _asked[name] = self

    def answer(self, body: Mapping[str, Any]) -> Reply | Fail:
        """What the fake makes up, as a server's reply."""
        words = {word: body[word] for word in ("tools", "response_format") if body.get(word)}
        try:
            result = self.theirs()._generate(self, convert_to_messages(body["messages"]), **words)  # type: ignore[arg-type]
        except Exception as error:
            return Fail(500, body={"error": {"message": repr(error), "type": "server_error"}})
        message = result.generations[0].message
        assert isinstance(message, AIMessage)
        self._said.append(message)
        if refuses(message):
            return Reply(message.text, finish="content_filter")
        calls = [{"name": call["name"], "args": call["args"], "id": call["id"]} for call in message.tool_calls]
        if words.get("response_format") and calls and not message.text:
            # Their fakes have no way to ask for a form but a tool, and answer by a call of it.
            return Reply(json.dumps(calls[0]["args"]))
        return Reply(message.text, tool_calls=calls, chunks=self.split(message.text))

    @classmethod
    def theirs(cls) -> type[BaseChatModel]:
        """The fake."""
        raise NotImplementedError

    def split(self, text: str) -> list[str]:
        """The chunks in which the fake streams."""
        return [text] if self.theirs()._stream is BaseChatModel._stream else re.split(r"(\s)", text)

    # What a server cannot send, and no fake does, is looked at and put as their tests compare it.

    def _generate(self, *args: Any, **kwargs: Any) -> ChatResult:
        # Whoever watches event loops for calls that wait has to see this one, however fast the server answers.
        sleep(0)
        return self._as_theirs(super()._generate(*args, **kwargs))

    async def _agenerate(self, *args: Any, **kwargs: Any) -> ChatResult:
        return self._as_theirs(await super()._agenerate(*args, **kwargs))

    def _as_theirs(self, result: ChatResult) -> ChatResult:
        [generation] = result.generations
        strip(generation.message)
        generation.message.id = self._said[-1].id
        result.llm_output = generation.generation_info = None
        return result

    def _stream(self, *args: Any, **kwargs: Any) -> Iterator[ChatGenerationChunk]:
        for chunk in super()._stream(*args, **kwargs):
            yield self._chunk_as_theirs(chunk)

    async def _astream(self, *args: Any, **kwargs: Any) -> AsyncIterator[ChatGenerationChunk]:
        async for chunk in super()._astream(*args, **kwargs):
            yield self._chunk_as_theirs(chunk)

    def _chunk_as_theirs(self, chunk: ChatGenerationChunk) -> ChatGenerationChunk:
        strip(chunk.message)
        chunk.message.id = self._said[-1].id
        return chunk


TIERS = ("down", "theirs")


def refuses(message: AIMessage) -> bool:
    """Whether it says that it refuses, in any of LangChain's words; servers have one of their own."""
    parts = [part.get("type") for part in message.content if isinstance(part, dict)]
    word = message.response_metadata.get("stop_reason")
    return word == "refusal" or "refusal" in (*parts, *message.additional_kwargs)


def strip(message: BaseMessage) -> None:
    """Take off the facts, which have to be right, and what else of the server's no fake has."""
    facts = message.response_metadata.get("llm_fallback")
    assert facts is None or (facts["deployment"], facts["fell_back"]) == ("theirs", True)
    message.response_metadata, message.additional_kwargs = {}, {}
    if isinstance(message, AIMessage):
        message.usage_metadata = None


def stand_in_for(fake: type[BaseChatModel]) -> type[StandIn]:
    """Our model with the fields and, where it has its own, the `bind_tools` of a fake."""
    own = {name: info for name, info in fake.model_fields.items() if name not in BaseChatModel.model_fields}
    members: dict[str, Any] = {
        "__module__": fake.__module__,
        "__annotations__": {name: info.annotation for name, info in own.items()},
        **{name: info.default for name, info in own.items() if not info.is_required()},
        "theirs": classmethod(lambda cls: fake),
    }
    return type(fake.__name__, (StandIn,), members)


class OverRouter(FallbackChatModel):
    """Our model over a router's deployments, built as ChatLiteLLMRouter is."""

    def __init__(self, *, router: Any = None, model_name: str | None = None, **fields: Any) -> None:
        if router is None or "runtime" in fields:
            super().__init__(**fields)
            return
        given = {name: value for name, value in vars(router).items() if name in ROUTER_SETTINGS and value}
        rows = json.loads(json.dumps(router.get_model_list(), default=str))
        # Nobody answers where a double stands in the router's place, and asking again takes seconds.
        fields = {"max_retries": 0, **fields}
        super().__init__(spec={"model_list": rows, "router_settings": given}, chain=model_name, **fields)


async def send_to_double(
    client: HTTPClient, request: HTTPRequest, guard: object, *, method: str = "POST", ssl_verify: object = None
) -> HttpxResponse:
    """Send a request where their doubles answer, and to nobody if there is none."""
    if LiteLLMAiohttpTransport.handle_async_request is NETWORK:
        raise ConnectionRefusedError("no double answers")
    asked = httpx.Request(method, request.url, headers=dict(request.headers), content=request.body)
    return HttpxResponse(await LiteLLMAiohttpTransport.handle_async_request(None, asked))  # type: ignore[arg-type]


NETWORK = LiteLLMAiohttpTransport.handle_async_request
ROUTER_SETTINGS = ("fallbacks", "context_window_fallbacks", "content_policy_fallbacks", "model_group_alias")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Expect those to fail that do not apply; one that passes fails the run, and so does a name that no test has."""
    reasons, found = not_applicable(os.environ["PEER"]), set()
    for item in items:
        name = item.nodeid.split("::", 1)[1]
        listed = name if name in reasons else name.partition("[")[0]
        if listed in reasons:
            found.add(listed)
            item.add_marker(pytest.mark.xfail(reason=reasons[listed], strict=True))
    if unknown := reasons.keys() - found:
        raise pytest.UsageError(f"not_applicable.yaml names what is no test: {', '.join(sorted(unknown))}")


def not_applicable(peer: str) -> dict[str, str]:
    """The reasons by the names of tests, with their parameters or without."""
    rows = yaml.safe_load((Path(__file__).parent / "not_applicable.yaml").read_text(encoding="utf-8"))[peer]
    return {name: row["reason"] for row in rows for name in row["tests"]}


def pytest_sessionstart() -> None:
    """Before any test is imported."""
    server()
    for module, name in FAKES:
        try:
            found = import_module(module)
        except ImportError:
            continue
        if not issubclass(fake := getattr(found, name), StandIn):
            setattr(found, name, stand_in_for(fake))
    if os.environ.get("PEER") == "langchain-litellm":
        import_module("langchain_litellm.chat_models").ChatLiteLLMRouter = OverRouter  # type: ignore[attr-defined]
        import_module("langchain_litellm").ChatLiteLLMRouter = OverRouter  # type: ignore[attr-defined]
        HTTPClient.send = send_to_double  # type: ignore[assignment,method-assign]
