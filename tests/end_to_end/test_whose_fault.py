"""Failures that arise on this side, before a byte is sent: whose fault they are, by every road, and with the fake."""

from __future__ import annotations

import datetime
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import litellm
import pytest
from langchain_core.messages import AIMessage, ChatMessage, HumanMessage, SystemMessage, ToolMessage
from litellm.integrations.custom_logger import CustomLogger
from litellm.llms.custom_llm import CustomLLM, CustomLLMError
from pydantic import BaseModel

from llm_fallback import ChainExhausted, build_chat_model
from llm_fallback.testing import Fail, FakeServer, assert_attempts, fake_chat_model
from tests.asking import MODES, TWO_MODES, ask
from tests.thinning import combinations

HALF = "half an emoji: \ud83d"
ROADS = ("vllm", "openai-compatible", "vllm, listened to", "openai-compatible, listened to", "fake")
LISTS = (
    *("callbacks", "success_callback", "failure_callback", "input_callback"),
    *("_async_success_callback", "_async_failure_callback", "_async_input_callback"),
)


class Form(BaseModel):
    """A form with a schema."""

    number: int


def tool(**function: Any) -> dict[str, Any]:
    """A call's tool, which is not as it should be."""
    return {"tools": [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}, **function}}]}


def circle() -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "object"}
    schema["not"] = schema
    return schema


def circle_of(kind: str) -> dict[str, Any]:
    """A part of a message that contains itself."""
    part: dict[str, Any] = {"type": kind, "text": "hi", "content": []}
    part["content"].append(part)
    return part


def pit() -> Any:
    """What is nested deeper than anybody goes: Python 3.14 writes 50,000 levels."""
    value: Any = "the floor"
    for _ in range(200_000):
        value = [value]
    return value


def after_a_tool(args: dict[str, Any], result: Any = "done") -> list[Any]:
    """A conversation in which a tool was called."""
    call = {"name": "f", "args": args, "id": "call_1"}
    return [HumanMessage("go"), AIMessage("", tool_calls=[call]), ToolMessage(result, tool_call_id="call_1")]


UNENCODABLE: dict[str, tuple[Any, dict[str, Any]]] = {
    "a lone surrogate": (HALF, {}),
    "one in a tool's description": ("hi", tool(description=HALF)),
    "one in a tool's result": (after_a_tool({}, HALF), {}),
    "one in a stop": ("hi", {"stop": [HALF]}),
    "a set in a schema": ("hi", tool(parameters={"enum": {1}})),
    "a schema that contains itself": ("hi", tool(parameters=circle())),
    "a part of a message that contains itself": ([HumanMessage([circle_of("text")])], {}),
    "a picture that contains itself": ([HumanMessage([{"type": "image_url", "image_url": circle_of("text")}])], {}),
    "a tool's result that contains itself": (after_a_tool({}, [circle_of("text")]), {}),
    "a tool's argument that contains itself": (after_a_tool({"x": circle()}), {}),
    "a part of a message without a floor": ([HumanMessage([{"type": "text", "text": "hi", "x": pit()}])], {}),
    "a tool's argument without a floor": (after_a_tool({"x": pit()}), {}),
    "a response_format that contains itself": ("hi", {"response_format": circle()}),
    "a response_format without a floor": ("hi", {"response_format": {"type": "json_schema", "json_schema": pit()}}),
    "a stop without a floor": ("hi", {"stop": [pit()]}),
    "a bias that contains itself": ("hi", {"logit_bias": circle()}),
    "a bias without a floor": ("hi", {"logit_bias": {"1": pit()}}),
    "words of one's own without a floor": ("hi", {"extra_body": {"x": pit()}}),
    "infinity in a schema": ("hi", tool(parameters={"maximum": float("inf")})),
    "a temperature that is no number": ("hi", {"temperature": float("nan")}),
    "a class among the tools, which litellm would drop": ("hi", {"tools": [Form]}),
    "bytes for a text": ([HumanMessage([{"type": "text", "text": b"hi"}])], {}),
    "a date in a tool's arguments": (after_a_tool({"day": datetime.date(2025, 4, 1)}), {}),
    "a number that is none in a tool's arguments": (after_a_tool({"x": [float("nan")]}), {}),
    "half an emoji in a tool's arguments": (after_a_tool({"x": HALF}), {}),
}
UNTRANSLATABLE: dict[str, tuple[Any, dict[str, Any]]] = {
    "a part nobody knows": ([HumanMessage([{"type": "foo", "foo": 1}])], {}),
    "a response_format that is a word": ("hi", {"response_format": "json"}),
    "a tool_choice that is none": ("hi", {**tool(), "tool_choice": {"a": 1}}),
}


@contextmanager
def model_of(road: str, scripts: dict[str, Any], **settings: Any) -> Iterator[tuple[Any, Any]]:
    """A model over scripted deployments by one of the roads, and what has `received`."""
    if road == "fake":
        with fake_chat_model(scripts, **settings) as fake:
            yield fake, fake
        return
    kept = {name: list(getattr(litellm, name)) for name in LISTS}
    if "listened to" in road:
        litellm.callbacks.append(CustomLogger())
    try:
        spec: dict[str, Any] = {"backend": road.partition(",")[0]}
        with FakeServer(scripts) as server, build_chat_model(server.spec(**spec), **settings) as model:
            yield model, server
    finally:
        # litellm copies a listener from list to list.
        for name, callbacks in kept.items():
            setattr(litellm, name, callbacks)


def breakers(model: Any) -> set[str]:
    return {known["breaker"] for known in model.state().values()}


@pytest.mark.parametrize("case", [*UNENCODABLE, *UNTRANSLATABLE])
@pytest.mark.parametrize(
    ("road", "mode"), combinations(ROADS, TWO_MODES, fast=lambda road, mode: mode == "astream" or road == ROADS[0])
)
async def test_a_request_that_nobody_is_sent_is_no_deployment_s_fault(case, road, mode):
    """However often it comes: one attempt each, nothing sent, no breaker told, and the next good call is answered."""
    prompt, words = (UNENCODABLE | UNTRANSLATABLE)[case]
    with model_of(road, {"own": "hello", "hosted": "hi"}) as (model, server):
        for _ in range(4):
            with pytest.raises(ChainExhausted) as caught:
                await ask(model, mode, prompt, **words)
            [attempt] = caught.value.attempts
            assert (caught.value.failure, attempt.failure, attempt.status) == ("bad_request", "bad_request", None)
            assert (case in UNENCODABLE) == ("no deployment could get this request" in str(caught.value))
        assert (server.received(), breakers(model)) == ([], {"closed"})
        assert_attempts(await ask(model, mode), "own: succeeded")


@pytest.mark.parametrize("mode", MODES)
async def test_it_is_so_in_every_mode(mode):
    """Whether the caller waits in a thread or in a task."""
    with model_of("vllm", {"own": "hello", "hosted": "hi"}) as (model, server):
        with pytest.raises(ChainExhausted) as caught:
            await ask(model, mode, HALF)
        assert [(at.deployment, at.failure, at.status) for at in caught.value.attempts] == [
            ("own", "bad_request", None)
        ]
        assert server.received() == []


@pytest.mark.parametrize("road", ROADS)
def test_one_tenant_s_malformed_prompts_harm_nobody_else(road):
    """The first deployment is down, its breaker open; the second answers every good call all the same."""
    with model_of(road, {"own": Fail(500), "hosted": "hi"}) as (model, _):
        for _ in range(4):
            assert model.invoke("hello").text == "hi"
        for prompt in (HALF, [HumanMessage([{"type": "foo"}])]) * 4:
            with pytest.raises(ChainExhausted):
                model.invoke(prompt)
        assert model.invoke("hello").text == "hi"


@pytest.mark.parametrize("road", ROADS)
def test_metadata_are_no_part_of_the_request(road):
    """Whatever they hold."""
    with model_of(road, {"own": "hello"}, metadata={"half": HALF, "day": datetime.date(2025, 4, 1)}) as (model, _):
        assert model.invoke("hi").text == "hello"


@pytest.mark.parametrize("road", ROADS)
def test_a_class_as_response_format_is_written_out(road):
    """As litellm does it."""
    with model_of(road, {"own": "hello"}) as (model, server):
        assert model.invoke("hi", response_format=Form).text == "hello"
        [received] = server.received()
    assert "number" in str(received.body["response_format"])


@pytest.mark.parametrize("road", ROADS)
def test_bare_texts_in_a_message_arrive_as_parts(road):
    """LangChain allows both, and every server takes parts; an empty text is none."""
    prompt = [SystemMessage(["be", "brief"]), HumanMessage(["a", "", {"type": "text", "text": "b"}])]
    with model_of(road, {"own": "hello"}) as (model, server):
        assert model.invoke(prompt).text == "hello"
        assert model.invoke([HumanMessage([""])]).text == "hello"
        bodies = [received.body["messages"] for received in server.received()]
    if road != "fake":  # LangChain joins its texts.
        parts = [[{"type": "text", "text": text} for text in texts] for texts in (("be", "brief"), ("a", "b"))]
        assert [message["content"] for message in bodies[0]] == parts
    assert "a" in str(bodies[0][1]["content"])
    assert bodies[1][0]["content"] == ""


def test_a_role_nobody_knows_is_the_server_s_to_refuse():
    """A server of one's own may know it."""
    with model_of("vllm", {"own": "hello"}) as (model, server):
        assert model.invoke([ChatMessage(role="critic", content="hm")]).text == "hello"
        assert server.received()[0].body["messages"][0]["role"] == "critic"


# Of other providers litellm sends the requests itself.

KEYS = {"api_key": "sk-given"}
HOSTED: dict[str, dict[str, Any]] = {
    "anthropic": {"model": "anthropic/claude-sonnet-4-5", **KEYS},
    "gemini": {"model": "gemini/gemini-2.5-pro", **KEYS},
    "azure": {"model": "azure/prod", "params": {"api_version": "2025-04-01"}, **KEYS},
    "mistral": {"model": "mistral/mistral-large-latest", **KEYS},
    "cohere": {"model": "cohere_chat/command-r", **KEYS},
    "bedrock": {
        "model": "bedrock/anthropic.claude-3-5-sonnet-20240620-v1:0",
        "params": {"aws_access_key_id": "AKIA", "aws_secret_access_key": "x", "aws_region_name": "us-east-1"},
    },
}


@pytest.mark.parametrize("provider", HOSTED)
@pytest.mark.parametrize("mode", TWO_MODES)
async def test_so_it_is_with_providers_that_litellm_asks_by_itself(provider, mode):
    """What cannot be encoded is tried nowhere else; what cannot be translated is, and arrives nowhere either."""
    with FakeServer({"first": "hello", "second": "hi"}) as server:
        spec = server.spec()
        spec["deployments"]["first"] = {**HOSTED[provider], "api_base": spec["deployments"]["first"]["api_base"]}
        with build_chat_model(spec) as model:
            foo = [HumanMessage([{"type": "foo"}])]
            nan = after_a_tool({"x": float("-inf")})
            for prompt, asked in ((HALF, ["first"]), (nan, ["first"]), (foo, ["first", "second"])):
                with pytest.raises(ChainExhausted) as caught:
                    await ask(model, mode, prompt)
                told = [(at.deployment, at.failure, at.status) for at in caught.value.attempts]
                assert told == [(name, "bad_request", None) for name in asked]
            assert (server.received(), breakers(model)) == ([], {"closed"})


@pytest.mark.parametrize("provider", HOSTED)
def test_arguments_that_json_cannot_hold_go_to_nobody_once_others_were_sent(provider):
    """Messages of the same shape were translated before, and are written without litellm by now."""
    with FakeServer({"first": "hello"}) as server:
        spec = server.spec()
        spec["deployments"]["first"] = {**HOSTED[provider], "api_base": spec["deployments"]["first"]["api_base"]}
        with build_chat_model(spec, max_retries=0) as model:
            for number in (1, 2, 3):
                with suppress(ChainExhausted):  # Not all of their addresses are the server's.
                    model.invoke(after_a_tool({"x": number}), **tool())
            asked = len(server.received())
            with pytest.raises(ChainExhausted) as caught:
                model.invoke(after_a_tool({"x": float("nan")}), **tool())
        [attempt] = caught.value.attempts
        assert (attempt.failure, attempt.status, len(server.received())) == ("bad_request", None, asked)


def test_what_one_translation_refuses_another_provider_is_sent():
    """Anthropic's form has no place for a role of one's own."""
    with FakeServer({"first": "hello", "second": "hi"}) as server:
        spec = server.spec()
        spec["deployments"]["first"] = {**HOSTED["anthropic"], "api_base": spec["deployments"]["first"]["api_base"]}
        with build_chat_model(spec) as model:
            message = model.invoke([ChatMessage(role="critic", content="hm")])
            assert_attempts(message, "first: bad_request", "second: succeeded")
            assert breakers(model) == {"closed"}
        assert [received.deployment for received in server.received()] == ["second"]


@pytest.mark.parametrize("provider", ["anthropic", "gemini", "bedrock"])
@pytest.mark.parametrize("text", ["API key not valid. Please pass a valid API key.", "Unable to locate credentials"])
def test_a_prompt_that_talks_of_keys_opens_no_breaker(provider, text):
    """Where a translation quotes what it refuses, litellm takes it for the provider's own words."""
    with FakeServer({"first": "hello", "second": "hi"}) as server:
        spec = server.spec()
        spec["deployments"]["first"] = {**HOSTED[provider], "api_base": spec["deployments"]["first"]["api_base"]}
        with build_chat_model(spec, max_retries=0) as model:
            message = model.invoke([ChatMessage(role="critic", content=text)])
            assert_attempts(message, "first: bad_request", "second: succeeded")
            assert breakers(model) == {"closed"}


class House(CustomLLM):
    """A provider of one's own, asked by nobody knows what."""

    async def acompletion(self, *args: Any, **words: Any) -> Any:
        raise CustomLLMError(500, "the house is down")


def test_of_a_provider_of_one_s_own_nobody_sees_what_it_sends(monkeypatch):
    """So what it raises is its failure, but for a request that nobody could send."""
    monkeypatch.setattr(litellm, "custom_provider_map", [{"provider": "house", "custom_handler": House()}])
    monkeypatch.setattr(litellm, "_custom_providers", [*litellm._custom_providers, "house"])
    monkeypatch.setattr(litellm, "provider_list", [*litellm.provider_list, "house"])
    with FakeServer({"backup": "hi"}) as server, build_chat_model(chain_with(server, {"model": "house/m"})) as model:
        assert_attempts(model.invoke("hi"), "main: server_error", "backup: succeeded")
        with pytest.raises(ChainExhausted) as caught:
            model.invoke(HALF)
    assert [(at.deployment, at.failure, at.status) for at in caught.value.attempts] == [("main", "bad_request", None)]


# Providers that are none.


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    ("main", "told"),
    [
        ({"model": "antropic/claude-sonnet-4-5"}, "no provider is known as 'antropic'; did you mean 'anthropic'?"),
        ({"model": "google_genai/gemini-2.5-pro"}, "no provider is known as 'google_genai'; did you mean 'gemini'?"),
        ({"model": "ours/m"}, "no provider is known as 'ours'; write litellm's name for it, as in 'openai/gpt-4.1'"),
        (
            {"model": "ours/m", "api_base": "http://localhost:1"},
            "no provider is known as 'ours'; for a server of your own name its backend",
        ),
        ({"model": "pg_vector/m"}, "Unmapped LLM provider for this endpoint"),
        ({"model": "voyage/m", "api_key": "pa-given"}, "Unmapped LLM provider for this endpoint"),
    ],
    ids=lambda value: value["model"] if isinstance(value, dict) else "",
)
async def test_a_provider_that_nobody_can_ask_said_nothing(main, told, mode):
    """litellm words it as a 400. There is no status, no breaker is told, and the next deployment is asked."""
    with FakeServer({"backup": "hi"}) as server, build_chat_model(chain_with(server, main)) as model:
        message = await ask(model, mode)
        assert breakers(model) == {"closed"}
        ping = model.ping()["main"]
    assert_attempts(message, "main: bad_request", "backup: succeeded")
    attempt = message.response_metadata["llm_fallback"]["attempts"][0]
    assert (attempt["status"], attempt["cost_usd"]) == (None, 0.0)
    assert attempt["message"].startswith(told)
    assert (ping["failure"], ping["status"], ping["reachable"], ping["works"]) == ("bad_request", None, None, False)
    assert ping["remedy"] == "the request cannot be written for this deployment: are its model and params right?"


# Keys.

HOSTED_WITHOUT_KEY = {
    "openai/gpt-4.1": "OPENAI_API_KEY",
    "anthropic/claude-sonnet-4-5": "ANTHROPIC_API_KEY or ANTHROPIC_AUTH_TOKEN",
    "azure/gpt-4o": "AZURE_API_KEY or AZURE_OPENAI_API_KEY",
    "gemini/gemini-2.5-pro": "GEMINI_API_KEY or GOOGLE_API_KEY",
    "mistral/mistral-large-latest": "MISTRAL_API_KEY",
    "groq/llama-3.3-70b-versatile": "GROQ_API_KEY",
    "openrouter/meta-llama/llama-3-8b": "OPENROUTER_API_KEY or OR_API_KEY",
    "deepinfra/x": "DEEPINFRA_API_KEY",
}


@pytest.fixture
def _no_keys(monkeypatch, tmp_path) -> None:
    """A machine that knows no provider."""
    for name in list(os.environ):
        if name.endswith(("_KEY", "_TOKEN", "_CREDENTIALS")) or name.startswith(("AWS_", "AZURE_", "GOOGLE_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")


def chain_with(server: FakeServer, main: dict[str, Any]) -> dict[str, Any]:
    """The deployment, and the server's own after it."""
    spec = server.spec()
    spec["deployments"]["main"] = main
    spec["chains"]["default"]["tiers"] = ["main", "backup"]
    return spec


@pytest.mark.usefixtures("_no_keys")
@pytest.mark.parametrize("model_name", HOSTED_WITHOUT_KEY)
@pytest.mark.parametrize("mode", TWO_MODES)
async def test_a_provider_without_a_key_is_left_alone_until_somebody_sets_one(model_name, mode, caplog):
    """Known before anything is sent; the warning names the variables, and the next calls do not ask again."""
    with FakeServer({"backup": "hi"}) as server, build_chat_model(chain_with(server, {"model": model_name})) as model:
        first = await ask(model, mode)
        again = await ask(model, mode)
        state = model.state()["main"]
    told = first.response_metadata["llm_fallback"]["attempts"][0]
    assert_attempts(first, "main: auth", "backup: succeeded")
    assert_attempts(again, "backup: succeeded")
    assert (told["status"], told["cost_usd"], state["breaker"]) == (None, 0.0, "open")
    assert 290 < state["retry_in_s"] <= 300
    warned = [
        log.getMessage() for log in caplog.records if log.levelno == logging.WARNING and log.name == "llm_fallback"
    ]
    assert HOSTED_WITHOUT_KEY[model_name] in warned[0]


@pytest.mark.usefixtures("_no_keys")
@pytest.mark.parametrize("mode", TWO_MODES)
async def test_a_cloud_without_credentials_is_told_by_its_own_library(mode):
    """Amazon's looks in more places than we know of, so it is asked; nothing is sent all the same."""
    bedrock = {"model": "bedrock/anthropic.claude-3-5-sonnet-20240620-v1:0", "params": {"aws_region_name": "us-east-1"}}
    with FakeServer({"backup": "hi"}) as server, build_chat_model(chain_with(server, bedrock)) as model:
        message = await ask(model, mode)
        assert model.state()["main"]["breaker"] == "open"
    told = message.response_metadata["llm_fallback"]["attempts"][0]
    assert (told["failure"], told["status"]) == ("auth", None)
    assert "Unable to locate credentials" in told["message"]


@pytest.mark.usefixtures("_no_keys")
@pytest.mark.parametrize(
    "setting",
    [{"api_key": "sk-litellms"}, {"openai_key": "sk-litellms"}],
    ids=lambda setting: next(iter(setting)),
)
def test_a_key_that_litellm_was_told_is_one(setting, monkeypatch):
    """Then it is litellm's to use it."""
    for name, key in setting.items():
        monkeypatch.setattr(litellm, name, key)
    with FakeServer({"own": "hi"}) as server:
        monkeypatch.setenv("OPENAI_BASE_URL", server.spec()["deployments"]["own"]["api_base"] + "/v1")
        with build_chat_model(["openai/gpt-4.1"]) as model:
            assert model.invoke("hi").text == "hi"
        assert server.received()[0].headers["authorization"] == "Bearer sk-litellms"


@pytest.mark.usefixtures("_no_keys")
def test_a_ping_says_which_variable_to_set():
    """And that nothing is known of the provider, since nobody asked it."""
    with build_chat_model(["groq/llama-3.3-70b-versatile"]) as model:
        [ping] = model.ping().values()
    assert (ping["failure"], ping["status"], ping["reachable"], ping["key_accepted"]) == ("auth", None, None, None)
    assert ping["remedy"] == "set GROQ_API_KEY, or write the key as api_key"


def sealed() -> str:
    """A vault that is not open."""
    raise OSError("the vault is sealed")


async def sealed_later() -> str:
    """One that says so after a while."""
    raise OSError("the vault is sealed")


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("key", [sealed, sealed_later])
async def test_a_key_function_that_raises_is_a_missing_key(mode, key):
    """Nothing is sent, the next deployment is asked, and the one without a key is left alone."""
    if key is sealed_later and not mode.startswith("a"):
        pytest.skip("a thread cannot wait for it")
    with FakeServer({"main": "hello", "backup": "hi"}) as server:
        with build_chat_model(server.spec(deployments={"main": {"api_key": key}})) as model:
            message = await ask(model, mode)
            assert model.state()["main"]["breaker"] == "open"
        assert [received.deployment for received in server.received()] == ["backup"]
    assert_attempts(message, "main: auth", "backup: succeeded")
    told = message.response_metadata["llm_fallback"]["attempts"][0]
    assert (told["status"], told["message"]) == (None, "the key function failed: OSError: the vault is sealed")


async def test_a_ping_tells_of_a_key_function_that_raises():
    """Of the others it tells what it always does."""
    with FakeServer({"main": "hello", "backup": "hi"}) as server:
        with build_chat_model(server.spec(deployments={"main": {"api_key": sealed}})) as model:
            pings = [model.ping(), await model.aping()]
    for ping in pings:
        assert (ping["main"]["failure"], ping["main"]["works"], ping["backup"]["works"]) == ("auth", False, True)
        assert ping["main"]["remedy"] == "the function in api_key has to return a key"
