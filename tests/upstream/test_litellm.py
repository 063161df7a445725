"""litellm: what litellm_adapter leans on, and what made us build it as it is."""

from __future__ import annotations

import asyncio
import copy
import gc
import inspect
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from importlib.metadata import version
from importlib.util import find_spec
from typing import Any

import httpx
import litellm
import pytest
from litellm._internal_context import is_internal_call
from litellm.integrations.custom_logger import CustomLogger
from litellm.litellm_core_utils.core_helpers import map_finish_reason
from litellm.llms.custom_httpx.http_handler import AsyncHTTPHandler
from openai import AsyncOpenAI
from packaging.version import Version
from pydantic import SecretStr

from llm_fallback import build_chat_model
from llm_fallback.litellm_adapter import translation
from llm_fallback.litellm_adapter.errors import links_of
from llm_fallback.litellm_adapter.request import DeploymentRequest
from llm_fallback.litellm_adapter.translation import translate
from llm_fallback.spec.providers import KEY_VARIABLES
from llm_fallback.testing import FakeServer
from tests import plans

MODELS = {
    "anthropic_text": "anthropic_text/claude-2",
    "clarifai": "clarifai/openai.chat-completion.m",
    "huggingface": "huggingface/together/house/m",
    "replicate": "replicate/house/m",
}
"""Models of providers that take no other name."""
ALSO_NEEDED = {
    "CLOUDFLARE_ACCOUNT_ID": "house",
    "HEROKU_API_BASE": "https://heroku.invalid",
    "SNOWFLAKE_ACCOUNT_ID": "house",
}
"""What some providers want to know besides a key."""
CALLBACK_LISTS = (
    *("callbacks", "success_callback", "failure_callback"),
    *("_async_success_callback", "_async_failure_callback", "input_callback"),
)
LOADED_LATE = (
    *("anyio._backends._asyncio", "openai.resources.chat.completions"),
    *("litellm.litellm_core_utils.default_encoding", "litellm.llms.hosted_vllm.chat.transformation"),
    "litellm.proxy._types",
)
RIGHT = ("Hello world", "stop")
mended = pytest.mark.skipif(
    Version(version("litellm")) >= Version("1.108"),
    reason="a trap of litellm before 1.108",
)
since_mended = pytest.mark.skipif(Version(version("litellm")) < Version("1.110"), reason="litellm mended it in 1.110")
NOT_A_FINISH = ("clean close", "done without finish", "no choices")
INVENTED = ("empty body", "only done", "html", *(pytest.param(script, marks=mended) for script in NOT_A_FINISH))


def parameters(server: FakeServer, provider: str, script: str, **more: Any) -> dict[str, Any]:
    """A request to one script of the server through one of litellm's providers."""
    return {
        "model": f"{provider}/m",
        "api_base": f"{server.base(script)}/v1",
        "api_key": "sk-given",
        "messages": [{"role": "user", "content": "hi"}],
        "num_retries": 0,
        "max_retries": 0,
        **more,
    }


async def asked(server: FakeServer, provider: str, script: str, **more: Any) -> Any:
    return await litellm.acompletion(**parameters(server, provider, script, **more))


async def streamed(stream: Any) -> tuple[str, str | None]:
    """Text and finish reason, as whoever reads litellm's stream sees them."""
    text, finish = "", None
    async for chunk in stream:
        for choice in chunk.choices:
            text += choice.delta.content or ""
            finish = choice.finish_reason or finish
    return text, finish


def logging_workers() -> list[asyncio.Task[Any]]:
    return [task for task in asyncio.all_tasks() if "LoggingWorker" in getattr(task.get_coro(), "__qualname__", "")]


class Heard(CustomLogger):
    """A user's litellm callback."""

    def __init__(self) -> None:
        super().__init__()
        self.events: list[str] = []

    async def async_log_success_event(self, kwargs: Any, response_obj: Any, start_time: Any, end_time: Any) -> None:
        self.events.append("success")

    async def async_log_failure_event(self, kwargs: Any, response_obj: Any, start_time: Any, end_time: Any) -> None:
        self.events.append("failure")

    async def until(self, count: int) -> list[str]:
        async with asyncio.timeout(5):
            while len(self.events) < count:
                await asyncio.sleep(0.01)
        return sorted(self.events)


@pytest.fixture
def nobody_listens() -> Iterator[None]:
    """litellm's callback lists empty, and afterwards as they were."""
    kept = {name: list(getattr(litellm, name)) for name in CALLBACK_LISTS}
    for name in CALLBACK_LISTS:
        setattr(litellm, name, [])
    yield
    for name, callbacks in kept.items():
        setattr(litellm, name, callbacks)


@pytest.mark.usefixtures("nobody_listens")
class TestLogging:
    async def test_an_internal_call_is_logged_nowhere_and_starts_no_worker(self, server):
        """`is_internal_call` turns litellm's logging off; without it each of our calls would leave a logging worker
        in the loop and cost a third more."""
        heard = Heard()
        litellm.callbacks = [heard]
        token = is_internal_call.set(True)
        try:
            await asked(server, "hosted_vllm", "whole")
        finally:
            is_internal_call.reset(token)
        await asyncio.sleep(0.05)
        assert heard.events == []
        assert logging_workers() == []

    async def test_any_other_call_starts_a_worker_though_nobody_listens(self, server):
        """The reason why we turn logging off; once litellm starts none, `_quiet_logging` may go."""
        await asked(server, "hosted_vllm", "whole")
        await asyncio.sleep(0.05)
        assert logging_workers()

    async def test_the_lists_of_callbacks_are_these(self, server):
        """`_somebody_listens` reads six lists by name; one renamed would silence somebody's callback."""
        assert all(isinstance(getattr(litellm, name), list) for name in CALLBACK_LISTS)

    async def test_a_callback_registered_with_litellm_is_called_through_our_model(self, server):
        """Success and failure reach the user's CustomLogger, as they would without us."""
        litellm.callbacks = [heard := Heard()]
        async with build_chat_model(chain_of(server, "down", "whole")) as model:
            await model.ainvoke("hi")
            assert await heard.until(2) == ["failure", "success"]

    async def test_a_stream_through_our_model_is_logged_too(self, server):
        """litellm reports a stream when it is read to its end, under the context of whoever reads."""
        litellm.callbacks = [heard := Heard()]
        async with build_chat_model(chain_of(server, "down", "whole")) as model:
            assert [chunk async for chunk in model.astream("hi")]
            assert await heard.until(2) == ["failure", "success"]

    @pytest.mark.parametrize("backend", ["vllm", "openai-compatible"])
    async def test_our_model_starts_no_worker_while_nobody_listens(self, server, backend):
        """Of a call nothing stays behind in the loop."""
        async with build_chat_model(chain_of(server, "down", "whole", backend=backend)) as model:
            await model.ainvoke("hi")
            assert [chunk async for chunk in model.astream("hi")]
            await asyncio.sleep(0.05)
            assert logging_workers() == []


def chain_of(server: FakeServer, *scripts: str, backend: str = "vllm") -> dict[str, Any]:
    """A spec that tries these scripts in their order."""
    spec = server.spec(backend=backend)
    spec["chains"] = {"default": {"tiers": list(scripts)}}
    return spec


class Seen:
    """Event hooks that note what they saw."""

    def __init__(self) -> None:
        self.requests: list[httpx.Request] = []
        self.responses: list[httpx.Response] = []

    async def request(self, request: httpx.Request) -> None:
        self.requests.append(request)

    async def response(self, response: httpx.Response) -> None:
        self.responses.append(response)

    @property
    def hooks(self) -> dict[str, list[Any]]:
        return {"request": [self.request], "response": [self.response]}


class TestClients:
    async def test_a_handlers_hooks_see_request_and_response(self, server):
        """AsyncHTTPHandler takes `event_hooks`, and `hosted_vllm/` the handler as `client=`: without it nobody tells
        a server's own finish from one that litellm invented."""
        seen = Seen()
        handler = AsyncHTTPHandler(event_hooks=seen.hooks)
        await asked(server, "hosted_vllm", "whole", client=handler)
        assert [response.status_code for response in seen.responses] == [200]
        assert seen.requests[0].headers["authorization"] == "Bearer sk-given"
        await handler.close()

    @pytest.mark.parametrize("provider", ["openai", "litellm_proxy"])
    async def test_an_openai_client_of_ones_own_is_used(self, server, provider):
        """`client=AsyncOpenAI(http_client=...)` carries our hooks under `openai/` and `litellm_proxy/`."""
        seen = Seen()
        handler = AsyncHTTPHandler(event_hooks=seen.hooks)
        client = AsyncOpenAI(
            api_key="sk-given", base_url=f"{server.base('whole')}/v1", http_client=handler.client, max_retries=0
        )
        await asked(server, provider, "whole", client=client)
        assert [response.status_code for response in seen.responses] == [200]
        await handler.close()

    @pytest.mark.parametrize(
        "provider", ["mistral", "deepseek", "groq", "xai", "openrouter", "together_ai", "fireworks_ai"]
    )
    async def test_hosted_providers_that_take_a_handler_use_ours(self, server, provider):
        """Their wire is listened to as well; one that stops taking `client=` would be read blindly."""
        seen = Seen()
        handler = AsyncHTTPHandler(event_hooks=seen.hooks)
        assert await streamed(await asked(server, provider, "whole", client=handler, stream=True)) == RIGHT
        assert [response.status_code for response in seen.responses] == [200]
        await handler.close()

    @mended
    async def test_a_request_whose_connection_breaks_is_sent_once_more(self, server):
        """Why the request hook stops a second one: an attempt is one request, whatever the HTTP client thinks."""
        seen = Seen()
        handler = AsyncHTTPHandler(event_hooks=seen.hooks)
        with pytest.raises(litellm.InternalServerError):
            await asked(server, "hosted_vllm", "severed", client=handler)
        assert len(seen.requests) > 1
        await handler.close()

    async def test_a_handler_closes_its_connections(self, server):
        """`close()` is what ends our connections; a handler asked again afterwards opens new ones by itself."""
        handler = AsyncHTTPHandler()
        client = handler.client
        assert isinstance(client, httpx.AsyncClient)
        await handler.close()
        assert client.is_closed

    @pytest.mark.parametrize("module", LOADED_LATE)
    def test_what_we_load_early_can_be_found(self, module):
        """`warm_up` names modules that a first request loads; one renamed would cost a first call half a second."""
        assert find_spec(module) is not None


def asking(model: str, **words: Any) -> DeploymentRequest:
    """A request for the model, at an address where nobody is."""
    target = replace(plans.target("a"), parameters={"model": model, "api_base": "http://localhost/v1"})
    request = {"messages": [{"role": "user", "content": "hi"}], **words}
    return DeploymentRequest(target, request, SecretStr("sk-given"), set())


class TestTranslation:
    """`litellm_adapter/translation.py` lets litellm write a request and takes it where it would be sent. Were any of
    this to change, requests would go through litellm whole: dearer, not wrong."""

    @pytest.mark.parametrize("provider", ["hosted_vllm", "openai", "litellm_proxy"])
    @pytest.mark.parametrize("stream", [False, True])
    async def test_a_request_is_taken_where_it_would_be_sent(self, provider, stream):
        """`litellm.main.completion(acompletion=True)` is awaited, and lets through what is no Exception."""
        own = {"temperature": 0.5, "extra_body": {"top_k": 3}, "extra_headers": {"X-Team": "search"}}
        request = await translate(asking(f"{provider}/m", **own, stream=stream))
        body, headers = json.loads(request.body), {name.lower(): text for name, text in request.headers.items()}
        assert request.url == "http://localhost/v1/chat/completions"
        assert (headers["authorization"], headers["x-team"]) == ("Bearer sk-given", "search")
        assert (body["model"], body["temperature"], body["top_k"]) == ("m", 0.5, 3)
        assert body.get("stream", False) is stream

    async def test_a_refused_parameter_is_refused_before_that(self):
        """It names the parameter to drop."""
        with pytest.raises(litellm.UnsupportedParamsError):
            await translate(asking("openai/gpt-5", temperature=0.1))

    def test_the_log_that_spares_one_can_be_made(self):
        """A private class: without it every request goes through litellm whole."""
        assert translation.Logging is not None
        assert translation._unread_log() is not None

    def test_words_of_how_a_reply_ended_have_one_spelling(self):
        """`map_finish_reason` gives ours the words that litellm's own chunks have."""
        assert [map_finish_reason(word) for word in ("eos", "max_tokens", "stop")] == ["stop", "length", "stop"]


class TestStreams:
    @pytest.mark.parametrize("provider", ["hosted_vllm", "openai", "litellm_proxy"])
    @pytest.mark.parametrize("script", INVENTED)
    async def test_an_end_without_finish_becomes_stop(self, server, provider, script):
        """Why we read the wire: an empty body, a bare [DONE], a clean close, a page of HTML all end in "stop"."""
        _, finish = await streamed(await asked(server, provider, script, stream=True))
        assert finish == "stop"

    @since_mended
    @pytest.mark.parametrize("provider", ["openai", "litellm_proxy"])
    @pytest.mark.parametrize("script", NOT_A_FINISH)
    async def test_an_end_without_finish_is_an_error_meanwhile(self, server, provider, script):
        """In words by which `_by_its_classes` tells it from a connection that broke."""
        with pytest.raises(litellm.exceptions.MidStreamFallbackError, match="Stream ended before a finish_reason"):
            await streamed(await asked(server, provider, script, stream=True))

    async def test_hosted_vllm_skips_a_frame_that_does_not_parse(self, server):
        """Why we read the wire: text is missing in the middle, and nothing says so."""
        text, finish = await streamed(await asked(server, "hosted_vllm", "bad frame", stream=True))
        assert (text, finish) == ("The quick brown fox jumps", "stop")

    @pytest.mark.parametrize("script", [pytest.param("abort", marks=mended), "error"])
    async def test_hosted_vllm_turns_abort_and_error_into_stop(self, server, script):
        """Why we read the wire: vLLM gave the reply up, litellm calls it whole, even in `received_finish_reason`."""
        stream = await asked(server, "hosted_vllm", script, stream=True)
        assert await streamed(stream) == ("The quick", "stop")
        assert stream.received_finish_reason == "stop"

    @pytest.mark.parametrize("script", INVENTED)
    async def test_received_finish_reason_is_none_for_an_invented_finish(self, server, script):
        """`_finish` trusts it where no wire of ours is heard, with providers that take no client."""
        stream = await asked(server, "openai", script, stream=True)
        await streamed(stream)
        assert stream.received_finish_reason is None

    async def test_received_finish_reason_is_the_servers_own(self, server):
        """Were it None for a whole stream too, every reply of a hosted provider would count as broken."""
        stream = await asked(server, "openai", "whole", stream=True)
        assert await streamed(stream) == RIGHT
        assert stream.received_finish_reason == "stop"

    @pytest.mark.parametrize(("whole", "received"), [(True, "stop"), pytest.param(False, None, marks=mended)])
    async def test_received_finish_reason_tells_it_for_anthropic_as_well(self, whole, received):
        """The attribute is the wrapper's, whatever protocol a provider speaks."""
        stream = await litellm.acompletion(
            model="anthropic/claude-sonnet-4-5",
            api_key="sk-given",
            messages=[{"role": "user", "content": "hi"}],
            stream=True,
            client=anthropic_answering(ANTHROPIC_START + (ANTHROPIC_END if whole else [])),
        )
        assert await streamed(stream) == ("Hello", "stop")
        assert stream.received_finish_reason == received

    @pytest.mark.parametrize("provider", ["hosted_vllm", "openai"])
    async def test_a_plain_reply_keeps_the_servers_own_finish_reason(self, server, provider):
        """`native_finish_reason` is all that tells an aborted plain reply from a whole one."""
        choice = (await asked(server, provider, "abort")).choices[0]
        assert choice.finish_reason == "stop"
        assert choice.provider_specific_fields["native_finish_reason"] == "abort"

    @pytest.mark.parametrize(("provider", "status"), [("hosted_vllm", 503), ("openai", 500)])
    async def test_only_hosted_vllm_keeps_the_status_of_an_error_frame(self, server, provider, status):
        """Why we read the frame ourselves: vLLM says it is overloaded by 503 in a frame of a stream with status 200."""
        with pytest.raises(litellm.exceptions.MidStreamFallbackError) as caught:
            await streamed(await asked(server, provider, "overload frame", stream=True))
        assert getattr(caught.value.original_exception, "status_code", None) in (
            status,
            500 if status is None else status,
        )


def event(name: str, **data: Any) -> bytes:
    return f"event: {name}\ndata: {json.dumps({'type': name, **data})}\n\n".encode()


ANTHROPIC_START = [
    event(
        "message_start",
        message={"id": "m", "type": "message", "role": "assistant", "content": [], "model": "claude"}
        | {"stop_reason": None, "usage": {"input_tokens": 1, "output_tokens": 1}},
    ),
    event("content_block_start", index=0, content_block={"type": "text", "text": ""}),
    event("content_block_delta", index=0, delta={"type": "text_delta", "text": "Hello"}),
]
ANTHROPIC_END = [
    event("content_block_stop", index=0),
    event("message_delta", delta={"stop_reason": "end_turn", "stop_sequence": None}, usage={"output_tokens": 2}),
    event("message_stop"),
]


def anthropic_answering(events: list[bytes]) -> AsyncHTTPHandler:
    headers = {"content-type": "text/event-stream"}
    answer = httpx.MockTransport(lambda request: httpx.Response(200, headers=headers, content=b"".join(events)))
    return AsyncHTTPHandler(transport=answer)


class TestErrors:
    async def test_an_unsupported_parameter_is_refused_locally_and_named(self, server):
        """We drop the parameter that UnsupportedParamsError names, and know that nothing was sent."""
        with pytest.raises(litellm.UnsupportedParamsError, match="temperature"):
            await asked(server, "openai", "whole", model="openai/gpt-5", temperature=0)
        assert server.received() == []

    def test_a_stream_that_breaks_looks_like_an_unavailable_service(self):
        """MidStreamFallbackError is a ServiceUnavailableError: whoever asks for the class must ask for it first."""
        assert issubclass(litellm.exceptions.MidStreamFallbackError, litellm.ServiceUnavailableError)

    async def test_a_page_of_html_is_known_by_these_words(self, server):
        """`_fault_of_litellm` takes "Empty or invalid response" for `invalid_response`, not for a server error."""
        with pytest.raises(litellm.InternalServerError, match="Empty or invalid response"):
            await asked(server, "openai", "html")

    async def test_no_choices_are_no_error(self, server):
        """Why `_reply` looks for choices before it reads one."""
        assert (await asked(server, "hosted_vllm", "no choices")).choices == []

    @pytest.mark.parametrize(("suppressed", "printed"), [(True, False), (False, True)])
    async def test_suppress_debug_info_silences_the_advice(self, server, capsys, monkeypatch, suppressed, printed):
        """Unset, litellm prints "Give Feedback / Get Help" to standard output for every error it maps."""
        monkeypatch.setattr(litellm, "suppress_debug_info", suppressed)
        with pytest.raises(litellm.AuthenticationError):
            await asked(server, "hosted_vllm", "unauthorized")
        assert ("Give Feedback" in capsys.readouterr().out) is printed

    async def test_an_error_carries_the_key_in_its_frames(self, server):
        """Why an exception of litellm's is made a value where it is caught, and never raised on."""
        with pytest.raises(litellm.AuthenticationError) as caught:
            await asked(server, "hosted_vllm", "unauthorized", api_key="sk-canary")
        assert "sk-canary" in locals_of(caught.value)

    @pytest.mark.parametrize("provider", ["anthropic", "gemini", "azure", "bedrock", "openai"])
    async def test_the_response_itself_hangs_on_the_exceptions_of_every_provider(self, server, provider):
        """Why its status, headers and body can be read where litellm's own exception has another status and none of
        the headers."""
        with pytest.raises(litellm.NotFoundError) as caught:
            async for _ in await litellm.acompletion(**nowhere(server, provider), stream=True):
                raise AssertionError("nobody answers there")
        responses = [link.response for link in links_of(caught.value) if isinstance(link, httpx.HTTPStatusError)]
        assert {(response.status_code, response.text) for response in responses} == {(404, '{"detail":"Not Found"}')}
        assert all(response.headers["content-type"].startswith("application/json") for response in responses)


def nowhere(server: FakeServer, provider: str) -> dict[str, Any]:
    """A request to a path at which the server has nothing."""
    place = {"api_base": server.base("whole"), "api_key": "sk-given", "api_version": "2025-04-01-preview"}
    if provider == "bedrock":
        keys = {"aws_access_key_id": "a", "aws_secret_access_key": "s", "aws_region_name": "us-east-1"}
        place = {"aws_bedrock_runtime_endpoint": server.base("whole"), **keys}
    return {
        "model": f"{provider}/anthropic.claude-sonnet-4-5",
        "messages": [{"role": "user", "content": "hi"}],
        "num_retries": 0,
        "max_retries": 0,
        **place,
    }


def locals_of(error: BaseException) -> str:
    """The locals of every frame of litellm's that an exception holds."""
    found, trace = [], error.__traceback__
    while trace is not None:
        if "litellm" in trace.tb_frame.f_code.co_filename:
            found.append(repr(trace.tb_frame.f_locals))
        trace = trace.tb_next
    return "\n".join(found)


def test_no_tokenizer_is_fetched_while_tokens_are_counted():
    """`disable_hf_tokenizer_download` is a switch of litellm's; for a name like llama-3 it would ask a hub, on the
    event loop, where no deadline fires meanwhile."""
    assert litellm.disable_hf_tokenizer_download is True
    assert litellm.token_counter(model="hosted_vllm/meta-llama/Llama-3.3-70B-Instruct", text="some words") > 0


class TestKeys:
    @pytest.mark.parametrize("provider", ["openai", "litellm_proxy"])
    async def test_openais_key_is_sent_to_a_server_of_ones_own(self, server, monkeypatch, provider):
        """Why we always hand litellm a key, one that is none if need be."""
        monkeypatch.setenv("OPENAI_API_KEY", "sk-of-openai")
        monkeypatch.delenv("LITELLM_PROXY_API_KEY", raising=False)
        await asked(server, provider, "whole", api_key=None)
        assert server.received()[0].headers["authorization"] == "Bearer sk-of-openai"

    async def test_hosted_vllm_invents_a_key(self, server, monkeypatch):
        """Why a request hook of ours takes the authorization header off where the spec has no key."""
        monkeypatch.delenv("HOSTED_VLLM_API_KEY", raising=False)
        await asked(server, "hosted_vllm", "whole", api_key=None)
        assert server.received()[0].headers["authorization"].startswith("Bearer ")


class TestVariables:
    @pytest.fixture(autouse=True)
    def _bare(self, monkeypatch) -> None:
        """No key but the test's own, and nothing sent: what would be is kept."""
        for name in {name for names in KEY_VARIABLES.values() for name in names}:
            monkeypatch.delenv(name, raising=False)
        for name, value in ALSO_NEEDED.items():
            monkeypatch.setenv(name, value)
        self.sent: list[Any] = []
        for name in {"httpx", "httpx2"} & {*sys.modules}:
            monkeypatch.setattr(sys.modules[name].AsyncClient, "send", self._keep)
            monkeypatch.setattr(sys.modules[name].Client, "send", self._keep)

    def _keep(self, request: Any, *args: Any, **options: Any) -> Any:
        self.sent.append(request)
        raise httpx.ConnectError("kept", request=request)

    async def _asked(self, provider: str) -> str:
        """All that would be sent to a provider."""
        with suppress(Exception):
            await litellm.acompletion(
                model=MODELS.get(provider, f"{provider}/m"),
                messages=[{"role": "user", "content": "hi"}],
                num_retries=0,
                max_retries=0,
            )
        return " ".join(f"{request.url} {dict(request.headers)}" for request in self.sent)

    @pytest.mark.parametrize(
        ("provider", "name"), [(one, name) for one, names in KEY_VARIABLES.items() for name in names]
    )
    async def test_a_provider_s_key_is_read_from_each_of_its_variables(self, monkeypatch, provider, name):
        """Why a deployment whose provider has none of them set is not asked."""
        monkeypatch.setenv(name, "sk-of-the-variable")
        assert "sk-of-the-variable" in await self._asked(provider)


class TestMessages:
    MARKED: dict[str, Any] = {
        "role": "user",
        "content": [{"type": "text", "text": "hi", "cache_control": {"type": "ephemeral"}}],
    }
    TOOL: dict[str, Any] = {
        "type": "function",
        "function": {"name": "f", "parameters": {"type": "object", "properties": {}, "additionalProperties": False}},
    }

    @mended
    async def test_messages_and_tools_are_rewritten_in_place(self, server):
        """Why each attempt gets a copy: the next deployment needs them as the caller wrote them."""
        messages, tools = copy.deepcopy([self.MARKED]), copy.deepcopy([self.TOOL])
        await asked(server, "hosted_vllm", "whole", messages=messages, tools=tools)
        assert messages != [self.MARKED]
        assert tools != [self.TOOL]

    async def test_our_model_sends_the_second_deployment_what_the_first_was_sent(self, server):
        """What litellm did to the first request did not reach the second."""
        async with build_chat_model(chain_of(server, "down", "whole")) as model:
            await model.ainvoke([copy.deepcopy(self.MARKED)], tools=[copy.deepcopy(self.TOOL)])
        first, second = server.received()
        assert first.body["messages"] == second.body["messages"]
        assert first.body["tools"] == second.body["tools"]


def a_router(name: str) -> litellm.Router:
    deployment = {"model": "hosted_vllm/m", "api_base": "http://127.0.0.1:9"}
    return litellm.Router(model_list=[{"model_name": name, "litellm_params": deployment, "model_info": {"id": name}}])


@pytest.mark.usefixtures("nobody_listens")
class TestRouter:
    @mended
    def test_each_router_leaves_callbacks_behind_until_it_is_discarded(self):
        """Why no call goes through a Router, and `model.router` is built only when asked for."""
        router = a_router("upstream-callbacks")
        lists = [litellm.success_callback, litellm.failure_callback, litellm._async_success_callback]
        assert [len(found) for found in lists] == [1, 1, 1]
        router.discard()
        assert [len(found) for found in lists] == [0, 0, 0]

    @mended
    def test_a_dropped_router_is_never_freed(self):
        """Its callbacks hold it; `discard()` is the only way."""
        a_router("upstream-dropped")
        gc.collect()
        assert litellm.success_callback

    def test_a_router_adds_to_model_cost_for_good(self):
        """Why our catalogue only reads the map: an entry per deployment stays, even after `discard()`."""
        before = len(litellm.model_cost)
        a_router("upstream-model-cost").discard()
        assert len(litellm.model_cost) > before
        assert "upstream-model-cost" in litellm.model_cost

    def test_a_router_takes_what_build_router_gives_it(self):
        """`build_router` names these parameters; litellm 1.109 made the class a façade."""
        words = {"model_list", "fallbacks", "context_window_fallbacks", "content_policy_fallbacks", "num_retries"}
        assert {*words, "disable_cooldowns"} <= set(inspect.signature(litellm.Router).parameters)

    def test_our_models_leave_nothing_behind(self, server):
        """A thousand models leave litellm's lists and prices as they were; ten show it."""
        before = len(litellm.model_cost)
        for _ in range(10):
            build_chat_model(chain_of(server, "whole")).close()
        assert len(litellm.model_cost) == before
        assert not any(getattr(litellm, name) for name in CALLBACK_LISTS)


class TestCatalogue:
    def test_the_map_has_prices_and_windows_under_these_names(self):
        """The catalogue reads them; renamed, every price would be unknown without a word."""
        words = {
            *("input_cost_per_token", "output_cost_per_token", "cache_read_input_token_cost"),
            *("max_input_tokens", "supports_vision"),
        }
        assert words <= set(litellm.model_cost["gpt-4.1"])

    def test_supported_parameters_are_a_list_or_nothing(self):
        """An unknown provider gives None or raises; both mean that nothing is known to be lacking."""
        supported = litellm.get_supported_openai_params(model="openai/gpt-4.1")
        assert {"tools", "response_format"} <= set(supported or ())
        assert litellm.get_supported_openai_params(model="nobody/nothing") is None


LOOKING_UP = """
import os, socket
def refuse(host, *rest):
    print("looked up", host, flush=True)
    os._exit(0)
socket.getaddrinfo = refuse
{importing}
print("looked up nothing")
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("importing", "said"),
    [
        ("import llm_fallback, litellm", "looked up nothing"),
        ("import litellm", "looked up raw.githubusercontent.com"),
    ],
)
def test_importing_looks_up_a_public_host_unless_told_to_use_the_local_map(importing, said):
    """LITELLM_LOCAL_MODEL_COST_MAP is respected, and importing us sets it before litellm is imported."""
    done = subprocess.run(
        [sys.executable, "-c", LOOKING_UP.format(importing=importing)],
        env={name: value for name, value in os.environ.items() if not name.startswith("LITELLM_")},
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert done.stdout.strip().splitlines()[-1] == said
