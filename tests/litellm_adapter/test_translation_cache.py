"""Of two requests that differ only in the text of their messages, the later is made without litellm; nobody can tell by
what the server gets."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import litellm
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr

from llm_fallback import build_chat_model
from llm_fallback.litellm_adapter import translation_cache
from llm_fallback.litellm_adapter.request import DeploymentRequest
from llm_fallback.litellm_adapter.translation import HTTPRequest, translate
from llm_fallback.litellm_adapter.translation_cache import TranslationCache
from llm_fallback.testing import FakeServer

BACKENDS = ("vllm", "openai-compatible", "litellm-proxy")
PICTURE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
CALL = {"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}

texts = st.text(st.characters(codec="utf-8"), min_size=1).filter(str.strip)
roles = st.builds(
    lambda system, rest: [*system, *rest],
    st.lists(st.just("system"), max_size=1),
    st.lists(st.sampled_from(["user", "assistant"]), min_size=1, max_size=4),
)


@st.composite
def talks(draw) -> list[list[dict[str, str]]]:
    """Conversations of one or two shapes, some of each: what the first of a shape teach must hold for the others."""
    shapes = draw(st.lists(roles, min_size=1, max_size=2))
    turns = [draw(st.sampled_from(shapes)) for _ in range(draw(st.integers(3, 6)))]
    return [[{"role": role, "content": draw(texts)} for role in turn] for turn in turns]


parameters = st.fixed_dictionaries(
    {},
    optional={
        "temperature": st.floats(0, 2),
        "max_tokens": st.integers(1, 9999),
        "stop": st.lists(texts, min_size=1, max_size=4),
        "stream": st.just(True),
        "response_format": st.just({"type": "json_object"}),
        "tools": st.just([{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}]),
        "extra_body": st.dictionaries(st.sampled_from(["top_k", "min_p"]), st.integers(0, 9)),
    },
)
reshaping = st.fixed_dictionaries(
    {},
    optional={
        "supports_system_message": st.booleans(),
        "ensure_alternating_roles": st.booleans(),
        "cache_control_injection_points": st.just([{"location": "message", "role": "system"}]),
        "temperature": st.floats(0, 2),
    },
)


class Counted:
    """litellm's translation, and how often it was asked for."""

    def __init__(self) -> None:
        self.times = 0

    def __call__(self, words: Mapping[str, Any]) -> HTTPRequest:
        self.times += 1
        return translate(words)


@pytest.fixture
def counted() -> Iterator[Counted]:
    with pytest.MonkeyPatch.context() as patch:
        counter = Counted()
        patch.setattr(translation_cache, "translate", counter)
        yield counter


@pytest.fixture(scope="module", params=BACKENDS)
def deployment(request):
    """A deployment of a server that speaks OpenAI's protocol."""
    with FakeServer({"a": "x"}) as server, build_chat_model(server.spec(backend=request.param)) as model:
        yield model.runtime.plan.targets["a"]


def asking(target, messages, key="sk-given", dropped=(), **words) -> DeploymentRequest:
    return DeploymentRequest(target, {"messages": messages, **words}, SecretStr(key), set(dropped))


def said(text: str) -> list[dict[str, Any]]:
    return [{"role": "user", "content": text}]


def seen(request: HTTPRequest) -> Any:
    return request.url, dict(request.headers), json.loads(request.body), request.query


@given(talks(), parameters, reshaping)
def test_the_server_gets_what_litellm_would_have_sent(deployment, talks, words, more):
    """Whatever is said, in whatever turns, under whatever parameters of the call and of the deployment."""
    known = TranslationCache()
    own = replace(deployment, parameters={**deployment.parameters, **more})
    for messages in talks:
        made = known.translate(asking(own, messages, **words))
        assert seen(made) == seen(translate(asking(own, messages, **words).parameters()))


def test_the_third_of_a_kind_is_made_without_litellm(deployment, counted):
    """Two have to agree before."""
    known = TranslationCache()
    for text in ("one", "two", "three", "four"):
        known.translate(asking(deployment, said(text), temperature=0.5))
    assert counted.times == 2


@pytest.mark.parametrize(
    "messages",
    [
        [{"role": "user", "content": [{"type": "text", "text": "see"}, PICTURE]}],
        [{"role": "user", "content": "hi", "name": "Ada"}],
        [*said("hi"), {"role": "assistant", "content": "", "tool_calls": [CALL]}],
        [*said("hi"), {"role": "tool", "content": "7", "tool_call_id": "1"}],
        [*said("hi"), {"role": "system", "content": "be brief"}],
        said("  "),
    ],
    ids=["picture", "name", "tool call", "tool", "system later", "blank"],
)
def test_what_is_more_than_plain_text_is_translated_each_time(deployment, counted, messages):
    """litellm may do something with it."""
    known = TranslationCache()
    for _ in range(4):
        known.translate(asking(deployment, messages))
    assert counted.times == 4


def test_what_litellm_sends_otherwise_than_given_is_translated_each_time(deployment, monkeypatch):
    """A release that rewrites plain messages is heeded."""

    def with_text(words):
        return translate({**words, "messages": said("something else")})

    monkeypatch.setattr(translation_cache, "translate", with_text)
    known = TranslationCache()
    for text in ("one", "two", "three"):
        assert json.loads(known.translate(asking(deployment, said(text))).body)["messages"] == said("something else")


class Numbered:
    """A litellm that sends a number with each request. `amid`: what is done while it translates the n-th."""

    def __init__(self, numbers: Iterable[int], amid: Mapping[int, Callable[[], object]] | None = None) -> None:
        self.numbers, self.amid, self.times = iter(numbers), dict(amid or {}), 0

    def __call__(self, words: Mapping[str, Any]) -> HTTPRequest:
        self.times += 1
        amid = self.amid.pop(self.times, None)
        number = next(self.numbers)
        if amid is not None:
            amid()
        made = translate(words)
        return HTTPRequest(made.url, {**made.headers, "X-Number": str(number)}, made.body)


def test_what_differs_from_one_time_to_the_next_is_translated_each_time(deployment, monkeypatch):
    """Were litellm to send a number of its own with each request, it goes on doing so."""
    monkeypatch.setattr(translation_cache, "translate", Numbered(range(9)))
    known = TranslationCache()
    found = [known.translate(asking(deployment, said("hi"))).headers["X-Number"] for _ in range(5)]
    assert found == ["0", "1", "2", "3", "4"]


def test_what_differed_once_is_relied_on_never_again(deployment, monkeypatch):
    """Two that agree afterwards prove nothing."""
    monkeypatch.setattr(translation_cache, "translate", Numbered([0, 1, 1, 1, 1, 2]))
    known = TranslationCache()
    found = [known.translate(asking(deployment, said("hi"))).headers["X-Number"] for _ in range(6)]
    assert found == ["0", "1", "1", "1", "1", "2"]


def test_what_another_call_learnt_meanwhile_counts(deployment, monkeypatch):
    """Of two at once the one that saw a difference is right, though the other one ends later."""
    known = TranslationCache()

    def ask() -> HTTPRequest:
        return known.translate(asking(deployment, said("hi")))

    monkeypatch.setattr(translation_cache, "translate", Numbered([0, 0, 1, 2], amid={2: ask}))
    assert [ask().headers["X-Number"] for _ in range(3)] == ["0", "0", "2"]


def test_every_request_has_the_key_it_was_given(deployment):
    """One that changes, too."""
    known = TranslationCache()
    for key in ("sk-1", "sk-2", "sk-1", "sk-2", "sk-1", "sk-2"):
        made = known.translate(asking(deployment, said("hi"), key))
        assert made.headers["Authorization"] == f"Bearer {key}"


def test_no_key_shows_in_a_dump(deployment, monkeypatch):
    """Templates hold requests, and those their headers; what litellm was told to send with each is none of ours."""
    known = TranslationCache()
    for headers in (None, {"X-Api-Key": "sk-canary-header"}):
        monkeypatch.setattr(litellm, "headers", headers)
        for _ in range(3):
            known.translate(asking(deployment, said("hi"), "sk-canary"))
    assert "sk-canary" not in repr(known._known)


SETTINGS = {
    "drop_params": True,
    "modify_params": True,
    "model_alias_map": {"a": "b"},
    "openai_system_messages_first": True,
}


@pytest.mark.parametrize("name", SETTINGS)
def test_a_setting_of_litellms_holds_from_the_next_request_on(deployment, counted, monkeypatch, name):
    """As it does for everybody who asks litellm whole."""
    known = TranslationCache()
    for _ in range(3):
        known.translate(asking(deployment, said("hi")))
    monkeypatch.setattr(litellm, name, SETTINGS[name])
    known.translate(asking(deployment, said("hi")))
    assert counted.times == 3


class Renewed:
    """A provider of tokens that are good for a while, as litellm's `proxy_auth` takes one."""

    token = ""

    def get_auth_headers(self) -> dict[str, str]:
        return {"X-Token": self.token}


def test_a_token_that_is_renewed_is_asked_for_each_time(deployment, monkeypatch):
    """One that was kept would be refused after its hour."""
    auth = Renewed()
    monkeypatch.setattr(litellm, "proxy_auth", auth)
    known = TranslationCache()
    for token in "1112":
        auth.token = token
        assert known.translate(asking(deployment, said("hi"))).headers["X-Token"] == token


def test_headers_given_to_litellm_are_sent_as_they_are_then(deployment, monkeypatch):
    """Also where the very mapping was changed meanwhile."""
    headers = {"X-Tenant": "0"}
    monkeypatch.setattr(litellm, "headers", headers)
    known = TranslationCache()
    for tenant in "0012":
        headers["X-Tenant"] = tenant
        asked = asking(deployment, said("hi"))
        assert seen(known.translate(asked)) == seen(translate(asked.parameters()))


@pytest.mark.parametrize("where", ["call", "deployment"])
def test_who_asks_litellm_to_reshape_messages_has_them_reshaped_each_time(deployment, counted, where):
    """What is done to a text may depend on what it says."""
    reshaped = {"enable_prompt_caching": True}
    known = TranslationCache()
    own = deployment if where == "call" else replace(deployment, parameters={**deployment.parameters, **reshaped})
    for _ in range(4):
        known.translate(asking(own, said("hi"), **(reshaped if where == "call" else {})))
    assert counted.times == 4


def test_a_parameter_found_not_to_be_taken_is_sent_no_more(deployment):
    """Though requests with it were translated before."""
    known = TranslationCache()
    for dropped in ((), (), (), ("temperature",)):
        made = known.translate(asking(deployment, said("hi"), dropped=dropped, temperature=0.5))
    assert "temperature" not in json.loads(made.body)


def test_one_order_of_roles_proves_nothing_for_another(deployment, monkeypatch):
    """Some models take no system message, and litellm makes a user's of it."""

    def without_system(words):
        messages = [{**message, "role": message["role"].replace("system", "user")} for message in words["messages"]]
        return translate({**words, "messages": messages})

    monkeypatch.setattr(translation_cache, "translate", without_system)
    known = TranslationCache()
    for _ in range(3):
        known.translate(asking(deployment, said("hi")))
    made = known.translate(asking(deployment, [{"role": "system", "content": "be brief"}, *said("hi")]))
    assert [message["role"] for message in json.loads(made.body)["messages"]] == ["user", "user"]


@pytest.mark.slow
def test_parameters_of_their_own_each_time_do_not_fill_the_memory(deployment):
    """What is kept of a deployment is bounded."""
    known = TranslationCache()
    for number in range(1000):
        known.translate(asking(deployment, said("hi"), seed=number))
    assert len(known._known) <= 64


@pytest.mark.parametrize("before", [0, 1, 2, 3])
def test_half_a_character_is_never_sent(before):
    """Not before a template is proven, and not by it; the next request finds it as it was."""
    known = TranslationCache()
    with FakeServer({"a": "x"}) as server, build_chat_model(server.spec(backend="vllm")) as model:
        own = model.runtime.plan.targets["a"]
        for text in ["one", "two", "three"][:before]:
            known.translate(asking(own, said(text)))
        with pytest.raises(ValueError, match="surrogate"):
            known.translate(asking(own, said("\ud800")))
        assert seen(known.translate(asking(own, said("four")))) == seen(
            translate(asking(own, said("four")).parameters())
        )


async def test_it_holds_through_the_whole_model():
    """Over HTTP: the texts of five calls arrive, each once, with the parameters of all."""
    with FakeServer({"a": None}) as server, build_chat_model(server.spec(backend="vllm"), temperature=0.5) as model:
        for number in range(5):
            await model.ainvoke(f"question {number}")
        bodies = [received.body for received in server.received()]
    assert [body["messages"] for body in bodies] == [said(f"question {number}") for number in range(5)]
    assert {body["temperature"] for body in bodies} == {0.5}
