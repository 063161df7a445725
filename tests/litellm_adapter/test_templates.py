"""Of requests that differ only in their messages the later ones are made without litellm; nobody can tell by what the
server gets."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from typing import Any

import litellm
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr

from llm_fallback import build_chat_model
from llm_fallback.litellm_adapter import translation
from llm_fallback.litellm_adapter.http_client import HTTPRequest
from llm_fallback.litellm_adapter.request import DeploymentRequest
from llm_fallback.litellm_adapter.templates import RequestTemplates
from llm_fallback.litellm_adapter.translation import LeftToLiteLLM, translate
from llm_fallback.plan.plan import Target
from llm_fallback.testing import FakeServer

NOWHERE = "http://127.0.0.1:9"
AZURE = {"model": "azure/gpt-4o", "params": {"api_version": "2025-04-01-preview"}}
DEPLOYMENTS: dict[str, dict[str, Any]] = {
    "vllm": {"model": "m", "backend": "vllm"},
    "openai-compatible": {"model": "m", "backend": "openai-compatible"},
    "litellm-proxy": {"model": "m", "backend": "litellm-proxy"},
    "mistral": {"model": "mistral/mistral-large-latest"},
    "azure": AZURE,
    "anthropic": {"model": "anthropic/claude-sonnet-4-5"},
    "gemini": {"model": "gemini/gemini-2.5-flash"},
    "ollama": {"model": "ollama_chat/llama3.1"},
}
PICTURE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
TOOL = {
    "type": "function",
    "function": {"name": "f", "description": "Looks it up.", "parameters": {"type": "object", "properties": {}}},
}


def call(number: int, arguments: str = '{"city": "Oslo"}') -> dict[str, Any]:
    return {"id": f"call_{number}", "type": "function", "function": {"name": "f", "arguments": arguments}}


def result(number: int, text: str = "7") -> dict[str, Any]:
    return {"role": "tool", "tool_call_id": f"call_{number}", "content": text}


def said(text: str) -> list[dict[str, Any]]:
    return [{"role": "user", "content": text}]


# Conversations.

texts = st.sampled_from(["hi", "so be it", "a\nb", " before", "behind \n", '"', "é😀", "null", "{}"])
arguments = st.sampled_from(['{"city": "Oslo"}', "{}", '{"a":{"b":[1,2.50,"x"]}}', "[1]", "{", '{"city":"\\u00e9"}'])
results = st.one_of(texts, st.sampled_from(["7", '{"t": 3}', '{"a": [1.0, 2]}', "[1, 2]", "{no", "", "data:x"]))
parts = st.lists(
    st.one_of(st.builds(lambda text: {"type": "text", "text": text}, texts), st.just(PICTURE)), min_size=1, max_size=3
)


@st.composite
def conversations(draw: st.DrawFn) -> list[dict[str, Any]]:
    """Whatever agents and people say."""
    messages: list[dict[str, Any]] = draw(
        st.lists(st.builds(lambda text: {"role": "system", "content": text}, texts), max_size=1)
    )
    number = 0
    for _ in range(draw(st.integers(1, 3))):
        messages.append({"role": "user", "content": draw(st.one_of(texts, texts, parts))})
        calls = [call(number + place, draw(arguments)) for place in range(draw(st.integers(0, 2)))]
        number += len(calls)
        if calls:
            content = draw(st.one_of(st.just(""), st.none(), texts))
            messages.append({"role": "assistant", "content": content, "tool_calls": calls})
            messages += [{"role": "tool", "tool_call_id": made["id"], "content": draw(results)} for made in calls]
        if draw(st.booleans()):
            messages.append({"role": "assistant", "content": draw(texts)})
    if messages[-1]["role"] == "assistant":
        messages += said(draw(texts))
    return messages


words = st.fixed_dictionaries(
    {},
    optional={
        "temperature": st.sampled_from([0, 0.5]),
        "max_tokens": st.just(99),
        "stop": st.just(["\n"]),
        "stream": st.just(True),
        "tools": st.just([TOOL]),
    },
)
more = st.fixed_dictionaries(
    {},
    optional={
        "supports_system_message": st.booleans(),
        "ensure_alternating_roles": st.booleans(),
        "cache_control_injection_points": st.just([{"location": "message", "role": "system"}]),
        "temperature": st.just(0.3),
    },
)


# What is made of them.


@pytest.fixture(scope="module")
def runner() -> Iterator[asyncio.Runner]:
    with asyncio.Runner() as runner:
        yield runner


def built(name: str) -> Target:
    spec = {
        "deployments": {"a": {"api_base": NOWHERE, "api_key": "sk-given", **DEPLOYMENTS[name]}},
        "chains": {"c": {"tiers": ["a"]}},
    }
    with build_chat_model(spec) as model:
        target: Target = model.runtime.plan.targets["a"]
        return target


@pytest.fixture(scope="module", params=DEPLOYMENTS)
def deployment(request) -> Target:
    """A deployment of each family of protocols."""
    return built(request.param)


@pytest.fixture(scope="module")
def vllm() -> Target:
    return built("vllm")


def asking(target, messages, key="sk-given", dropped=(), **words) -> DeploymentRequest:
    return DeploymentRequest(target, {"messages": messages, **words}, SecretStr(key), set(dropped))


class Asked:
    """Templates, filled as calls fill them, and how often litellm was asked."""

    def __init__(self, ask: Callable[[DeploymentRequest], Any] = translate) -> None:
        self.templates, self.times, self._ask = RequestTemplates(), 0, ask

    async def __call__(self, request: DeploymentRequest) -> HTTPRequest:
        known = self.templates.known(request)
        if known is None:
            self.times += 1
            known = await self._ask(request)
            self.templates.learn(request, known)
        return known


def seen(request: HTTPRequest) -> Any:
    return request.url, dict(request.headers), json.loads(request.body)


@given(talks=st.lists(conversations(), min_size=1, max_size=6), words=words, more=more)
def test_the_server_gets_what_litellm_would_have_sent(deployment, runner, talks, words, more):
    """Whatever is said, with pictures, tools and their results, whatever the parameters of call and deployment."""
    own = replace(deployment, parameters={**deployment.parameters, **more})

    async def compare() -> None:
        asked = Asked()
        for messages in talks:
            for _ in range(3):
                request = asking(own, messages, **words)
                try:
                    wanted = seen(await translate(request))
                except Exception:
                    assert asked.templates.known(request) is None
                    break
                assert seen(await asked(request)) == wanted

    runner.run(compare())


LONG = [
    {"role": "system", "content": "Be brief."},
    *said("What is the weather?"),
    {"role": "assistant", "content": "", "tool_calls": [call(1)]},
    result(1),
    {"role": "assistant", "content": "Seven."},
    *said("And there?"),
    {"role": "assistant", "content": "Let me see.", "tool_calls": [call(2), call(3, '{"city": "Rome"}')]},
    result(2),
    result(3, "it rains"),
    {"role": "assistant", "content": "It rains."},
    {"role": "user", "content": [{"type": "text", "text": "see"}, PICTURE]},
]


async def test_the_third_of_a_kind_is_made_without_litellm(deployment):
    """Two have to agree before. What was said is another thing each time."""
    asked = Asked()
    for text in ("one", "two", "three", "four"):
        await asked(asking(deployment, said(text), temperature=0.5))
    assert asked.times == 2


async def test_a_chat_that_grows_is_not_learnt_anew(deployment):
    """Messages of known shapes are written in any number: an agent's turns with tools' answers, pictures, a system."""
    asked = Asked()
    for _ in range(2):
        await asked(asking(deployment, LONG, tools=[TOOL]))
    twice = [*LONG, {"role": "assistant", "content": "A cat."}, *LONG[1:]]
    await asked(asking(deployment, twice, tools=[TOOL]))  # A text of the user's after the system, and not at the end.
    await asked(asking(deployment, twice, tools=[TOOL]))
    before = asked.times
    for times in range(2, 6):
        more = [*twice, *[message for _ in range(times) for message in twice[len(LONG) :]]]
        request = asking(deployment, more, tools=[TOOL])
        assert seen(await asked(request)) == seen(await translate(request))
    assert asked.times == before


@pytest.mark.parametrize(
    "messages",
    [
        said("  "),
        [*said("hi"), {"role": "assistant", "content": "", "tool_calls": [call(1, "{")]}, result(1)],
        [*said("hi"), {"role": "assistant", "content": "", "tool_calls": [{**call(1), "id": "a b"}]}],
        [{"role": "user", "content": [{"type": "file", "file": {"file_data": "data:application/pdf;base64,AA"}}]}],
    ],
    ids=["blank", "arguments that are no object", "an odd id", "a file"],
)
async def test_what_is_unusual_is_translated_each_time(messages):
    """What litellm makes of it depends on more than its form."""
    asked = Asked()
    for _ in range(4):
        await asked(asking(built("openai-compatible"), messages))
    assert asked.times == 4


def rewritten(rewrite: Callable[[HTTPRequest], HTTPRequest]) -> Callable[[DeploymentRequest], Any]:
    """A litellm that sends something else."""

    async def ask(request: DeploymentRequest) -> HTTPRequest:
        return rewrite(await translate(request))

    return ask


async def test_what_litellm_sends_otherwise_than_given_is_translated_each_time(deployment):
    """A release that rewrites plain messages is heeded."""
    asked = Asked(rewritten(lambda made: replace(made, body=made.body.replace(b"question", b"something else"))))
    for text in ("question one", "question two", "question three"):
        assert b"something else" in (await asked(asking(deployment, said(text)))).body
    assert asked.times == 3


class Numbered:
    """A litellm that sends a number with each request."""

    def __init__(self, numbers: Iterable[int]) -> None:
        self.numbers = iter(numbers)

    async def __call__(self, request: DeploymentRequest) -> HTTPRequest:
        made = await translate(request)
        return replace(made, headers={**made.headers, "X-Number": str(next(self.numbers))})


@pytest.mark.parametrize("numbers", [[0, 1, 2, 3, 4], [0, 1, 1, 1, 1, 2]])
async def test_what_differed_once_is_relied_on_never_again(vllm, numbers):
    """Two that agree afterwards prove nothing."""
    asked = Asked(Numbered(numbers))
    found = [(await asked(asking(vllm, said("hi")))).headers["X-Number"] for _ in numbers]
    assert found == [str(number) for number in numbers]


async def test_what_differs_in_the_end_is_relied_on_no_more(vllm):
    """Two calls at once had begun before it was known."""
    asked = Asked(Numbered([0, 0, 1]))
    requests = [asking(vllm, said("hi")) for _ in range(4)]
    translated = [await asked._ask(request) for request in requests[:3]]
    for request, made in zip(requests, translated, strict=False):
        asked.templates.learn(request, made)
    assert asked.templates.known(requests[3]) is None


# Logins.


async def test_every_request_has_the_key_it_was_given(deployment):
    """One that changes, too."""
    asked = Asked()
    for key in ("sk-1", "sk-2", "sk-1", "sk-2", "sk-1", "sk-2"):
        request = asking(deployment, said("hi"), key)
        assert seen(await asked(request)) == seen(await translate(request))
        assert any(key in text for text in (await asked(request)).headers.values())


async def test_a_key_of_the_environment_is_the_one_that_stands_there_now(monkeypatch):
    """It may be renewed while the process lives."""
    target = replace(built("mistral"), uses_provider_credentials=True)
    asked = Asked()
    for key in ("sk-1", "sk-1", "sk-1", "sk-2", "sk-2", "sk-2"):
        monkeypatch.setenv("MISTRAL_API_KEY", key)
        request = DeploymentRequest(target, {"messages": said("hi")}, None, set())
        assert (await asked(request)).headers["Authorization"] == f"Bearer {key}"
    assert asked.times == 4


@pytest.mark.parametrize("header", ["Authorization", "x-amz-date", "X-Token"])
async def test_a_login_that_nobody_gave_is_asked_for_each_time(vllm, header):
    """A token or a signature that litellm got is good for a while, and in a template it would be sent for ever."""
    tokens = iter("abcd")
    asked = Asked(rewritten(lambda made: replace(made, headers={**made.headers, header: next(tokens)})))
    found = [(await asked(asking(vllm, said("hi")))).headers[header] for _ in range(4)]
    assert found == ["a", "b", "c", "d"]


async def test_no_key_shows_in_a_dump(deployment, monkeypatch):
    """Templates hold requests, and those their headers; what litellm was told to send with each is none of ours."""
    asked = Asked()
    for headers in (None, {"X-Api-Key": "sk-canary-header"}):
        monkeypatch.setattr(litellm, "headers", headers)
        for _ in range(3):
            await asked(asking(deployment, said("hi"), "sk-canary"))
    assert "sk-canary" not in repr(asked.templates.__dict__)


# Settings.

SETTINGS = {
    "drop_params": True,
    "modify_params": True,
    "model_alias_map": {"a": "b"},
    "openai_system_messages_first": True,
}


@pytest.mark.parametrize("name", SETTINGS)
async def test_a_setting_of_litellms_holds_from_the_next_request_on(deployment, monkeypatch, name):
    """As it does for everybody who asks litellm whole."""
    asked = Asked()
    for _ in range(3):
        await asked(asking(deployment, said("hi")))
    monkeypatch.setattr(litellm, name, SETTINGS[name])
    await asked(asking(deployment, said("hi")))
    assert asked.times == 3


class Renewed:
    """A provider of tokens that are good for a while, as litellm's `proxy_auth` takes one."""

    token = ""

    def get_auth_headers(self) -> dict[str, str]:
        return {"X-Token": self.token}


async def test_a_token_that_is_renewed_is_asked_for_each_time(vllm, monkeypatch):
    """One that was kept would be refused after its hour."""
    auth = Renewed()
    monkeypatch.setattr(litellm, "proxy_auth", auth)
    asked = Asked()
    for token in "1112":
        auth.token = token
        assert (await asked(asking(vllm, said("hi")))).headers["X-Token"] == token


async def test_headers_given_to_litellm_are_sent_as_they_are_then(deployment, monkeypatch):
    """Also where the very mapping was changed meanwhile."""
    headers = {"X-Tenant": "0"}
    monkeypatch.setattr(litellm, "headers", headers)
    asked = Asked()
    for tenant in "0012":
        headers["X-Tenant"] = tenant
        request = asking(deployment, said("hi"))
        assert seen(await asked(request)) == seen(await translate(request))


@pytest.mark.parametrize("where", ["call", "deployment"])
async def test_who_asks_litellm_to_reshape_messages_has_them_reshaped_each_time(vllm, where):
    """What is done to a text may depend on what it says."""
    reshaped = {"enable_prompt_caching": True}
    asked = Asked()
    own = vllm if where == "call" else replace(vllm, parameters={**vllm.parameters, **reshaped})
    for _ in range(4):
        await asked(asking(own, said("hi"), **(reshaped if where == "call" else {})))
    assert asked.times == 4


async def test_a_parameter_found_not_to_be_taken_is_sent_no_more(vllm):
    """Though requests with it were translated before."""
    asked = Asked()
    for dropped in ((), (), (), ("temperature",)):
        made = await asked(asking(vllm, said("hi"), dropped=dropped, temperature=0.5))
    assert "temperature" not in json.loads(made.body)


async def test_one_company_proves_nothing_for_another(vllm):
    """Some models take no system message, and litellm makes a user's of it."""

    def without_system(made: HTTPRequest) -> HTTPRequest:
        return replace(made, body=made.body.replace(b'"system"', b'"user"'))

    asked = Asked(rewritten(without_system))
    for _ in range(3):
        await asked(asking(vllm, said("hi")))
    for _ in range(3):
        made = await asked(asking(vllm, [{"role": "system", "content": "be brief"}, *said("hi")]))
        assert [message["role"] for message in json.loads(made.body)["messages"]] == ["user", "user"]


@pytest.mark.slow
async def test_parameters_of_their_own_each_time_do_not_fill_the_memory(vllm):
    """What is kept of a deployment is bounded."""
    asked = Asked()
    for number in range(200):
        await asked(asking(vllm, said("hi"), seed=number))
    assert len(asked.templates._templates) <= 64


@pytest.mark.parametrize("before", [0, 1, 2, 3])
async def test_half_a_character_is_never_sent(vllm, before):
    """Not before a template is proven, and not by it; the next request finds it as it was."""
    asked = Asked()
    for text in ["one", "two", "three"][:before]:
        await asked(asking(vllm, said(text)))
    with pytest.raises(ValueError, match="surrogate"):
        await asked(asking(vllm, said("\ud800")))
    request = asking(vllm, said("four"))
    assert seen(await asked(request)) == seen(await translate(request))


async def test_it_holds_through_the_whole_model(monkeypatch):
    """Over HTTP: the texts of five calls arrive, each once, with the parameters of all; litellm was asked twice."""
    times = 0
    completion = translation.completion

    def counted(**words: Any) -> Any:
        nonlocal times
        times += 1
        return completion(**words)

    monkeypatch.setattr(translation, "completion", counted)
    with FakeServer({"a": None}) as server, build_chat_model(server.spec(backend="vllm"), temperature=0.5) as model:
        for number in range(5):
            await model.ainvoke(f"question {number}")
        bodies = [received.body for received in server.received()]
    assert [body["messages"] for body in bodies] == [said(f"question {number}") for number in range(5)]
    assert {body["temperature"] for body in bodies} == {0.5}
    assert times == 2


SIGNED = "call_67b2965e310b4adb85f10b7c4cf8__thought__" + "FrwF" * 300


@pytest.mark.parametrize("times", [1, 4])
async def test_a_signature_of_gemini_s_is_sent_to_nobody_else(deployment, times):
    """It stands in the ids of tool calls, and others refuse such long ones; Gemini has it back."""
    own = [{**call(1), "id": SIGNED}]
    messages = [
        *said("hi"),
        {"role": "assistant", "content": "", "tool_calls": own},
        {**result(1), "tool_call_id": SIGNED},
    ]
    asked = Asked()
    if deployment.litellm_provider == "gemini":
        with pytest.raises(LeftToLiteLLM):
            await asked(asking(deployment, messages))
        return
    for _ in range(times):
        body = (await asked(asking(deployment, messages))).body
        assert b"__thought__" not in body
        assert SIGNED.partition("__thought__")[0].encode() in body or deployment.litellm_provider == "ollama_chat"


async def test_a_request_without_messages_is_no_template(vllm):
    """Whatever litellm makes of it."""
    assert RequestTemplates().known(asking(vllm, [])) is None
