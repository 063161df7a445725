"""Plain calls that nobody listens to: past LangChain's steps, and the same for whoever asks."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any
from unittest.mock import patch
from uuid import UUID, uuid4

import pytest
from langchain_core import globals as langchains
from langchain_core.caches import InMemoryCache
from langchain_core.callbacks import BaseCallbackHandler, get_usage_metadata_callback
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage, ToolMessage
from langchain_core.rate_limiters import InMemoryRateLimiter
from langchain_core.runnables import RunnableLambda

from llm_fallback import build_chat_model
from llm_fallback.callbacks import CostCallbackHandler
from llm_fallback.chat_model import base
from llm_fallback.errors import ChainExhausted
from llm_fallback.testing import Fail, FakeChatModel, FakeServer, Reply, fake_chat_model

MODES = ("invoke", "ainvoke")


async def plainly(model: Any, mode: str, prompt: Any, config: Any = None, **words: Any) -> AIMessage:
    if mode == "invoke":
        return model.invoke(prompt, config, **words)
    return await model.ainvoke(prompt, config, **words)


async def by_langchain(model: Any, mode: str, prompt: Any, config: Any = None, **words: Any) -> AIMessage:
    """The call with all of LangChain's steps."""
    with patch.object(base, "plain_messages", lambda *_: None):
        return await plainly(model, mode, prompt, config, **words)


@contextmanager
def counted_steps() -> Iterator[list[str]]:
    """Notes which calls go through LangChain's steps."""
    noted: list[str] = []

    find = base.plain_messages

    def note(*args: Any) -> Any:
        messages = find(*args)
        noted.append("through" if messages is None else "past")
        return messages

    with patch.object(base, "plain_messages", note):
        yield noted


LOOK_UP = {"type": "function", "function": {"name": "look_up", "parameters": {"type": "object", "properties": {}}}}
PICTURE = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNkYPhfDwAChwGA60e6kgAAAABJRU5ErkJggg=="
TURN = [
    SystemMessage("Be brief."),
    HumanMessage("What is the weather?"),
    AIMessage("", tool_calls=[{"name": "look_up", "args": {"city": "Oslo"}, "id": "call_1"}]),
    ToolMessage("rain", tool_call_id="call_1"),
]
OLD_FORMS = [
    HumanMessage(
        [
            {"type": "text", "text": "What do you see and hear?"},
            {"type": "image", "source_type": "base64", "data": PICTURE, "mime_type": "image/png"},
            {"type": "input_audio", "input_audio": {"data": "UklGRg==", "format": "wav"}},
        ]
    )
]
FORMS: dict[str, tuple[Any, Any, dict[str, Any]]] = {
    "a text": (Reply("Oslo"), "hi", {}),
    "a text of two messages": (Reply("Oslo"), [("system", "be brief"), ("human", "hi")], {}),
    "reasoning": (Reply("Oslo", reasoning="let me think"), "hi", {}),
    "a tool": (
        Reply("", tool_calls=[{"name": "look_up", "args": {"q": 1}, "id": "call_9"}]),
        "hi",
        {"tools": [LOOK_UP]},
    ),
    "arguments that are none": (Reply("", tool_calls=[{"name": "look_up", "args": "{", "id": "c"}]), "hi", {}),
    "a tool's answer": (Reply("rain"), TURN, {"tools": [LOOK_UP]}),
    "content of older forms": (Reply("a dot"), OLD_FORMS, {}),
    "usage": (Reply("Oslo", usage=(7, 3)), "hi", {}),
    "a cut": (Reply("Osl", finish="length"), "hi", {}),
    "stop words": (Reply("Oslo"), "hi", {"stop": ["."]}),
    "parameters": (Reply("Oslo"), "hi", {"temperature": 0.3, "seed": 7}),
    "words for LangSmith": (
        Reply("Oslo"),
        "hi",
        {"ls_structured_output_format": {"kwargs": {}, "schema": LOOK_UP}},
    ),
    "another chain": (Reply("Oslo"), "hi", {"chain": "second"}),
}


def two_chains(script: Any) -> FakeChatModel:
    spec = {"deployments": {"a": {"model": "openai/gpt-4.1", "api_key": "k"}}, "default_chain": "first"}
    return fake_chat_model(
        {"a": script}, spec={**spec, "chains": {"first": {"tiers": ["a"]}, "second": {"tiers": ["a"]}}}
    )


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("form", FORMS)
async def test_the_message_is_the_one_that_langchain_gives(form, mode):
    """Content, calls, usage, id and all metadata; and the deployment got the same request."""
    script, prompt, words = FORMS[form]
    config, answers, requests = {"run_id": uuid4(), "metadata": {"customer": "x"}, "tags": ["t"]}, [], []
    with counted_steps() as steps:
        for asking in (plainly, by_langchain):
            model = two_chains(script)
            answers.append(await asking(model, mode, prompt, config, **words))
            requests.append([one.body for one in model.received()])
    assert steps == ["through" if form == "content of older forms" else "past"]
    assert answers[0] == answers[1]
    assert answers[0].model_dump() == answers[1].model_dump()
    assert answers[0].id == f"lc_run--{config['run_id']}-0"
    assert requests[0] == requests[1]


@pytest.mark.parametrize("mode", MODES)
async def test_a_server_s_reply_is_the_same_too(mode):
    """With what a real server adds: ids, fingerprints, logprobs, several choices."""
    for words in ({}, {"logprobs": True}, {"n": 2}):
        with FakeServer({"a": Reply("Oslo", usage=(7, 3))}) as server:
            async with build_chat_model(server.spec()) as model:
                config = {"run_id": uuid4()}
                own, langchains_ = [
                    (await asking(model, mode, "hi", config, **words)).model_dump()
                    for asking in (plainly, by_langchain)
                ]
        for message in (own, langchains_):
            metadata = message["response_metadata"]
            del metadata["llm_fallback"], metadata["id"]
        assert own == langchains_


@pytest.mark.parametrize("mode", ["stream", "astream"])
@pytest.mark.parametrize("form", FORMS)
async def test_the_chunks_are_those_that_langchain_gives(form, mode):
    """One by one, with their ids and all metadata; and the deployment got the same request."""
    script, prompt, words = FORMS[form]
    config, answers, requests = {"run_id": uuid4(), "metadata": {"customer": "x"}, "tags": ["t"]}, [], []
    with counted_steps() as steps:
        for asking in (streamed, streamed_by_langchain):
            model = two_chains(script)
            answers.append([chunk.model_dump() for chunk in await asking(model, mode, prompt, config, **words)])
            requests.append([one.body for one in model.received()])
    assert steps == ["through" if form == "content of older forms" else "past"]
    assert answers[0] == answers[1]
    assert {chunk["id"] for chunk in answers[0]} == {f"lc_run--{config['run_id']}"}
    assert requests[0] == requests[1]


async def streamed(model: Any, mode: str, prompt: Any, config: Any = None, **words: Any) -> list[Any]:
    if mode == "stream":
        return list(model.stream(prompt, config, **words))
    return [chunk async for chunk in model.astream(prompt, config, **words)]


async def streamed_by_langchain(model: Any, mode: str, prompt: Any, config: Any = None, **words: Any) -> list[Any]:
    with patch.object(base, "plain_messages", lambda *_: None):
        return await streamed(model, mode, prompt, config, **words)


@pytest.mark.parametrize("mode", ["stream", "astream"])
async def test_streams_are_heard_limited_and_rewritten_where_asked(mode):
    """Handlers hear each chunk, a rate limiter is waited for, `output_version` and `disable_streaming` are heeded."""
    heard = Heard()
    chunks = await streamed(fake_chat_model({"a": Reply("one two")}), mode, "hi", {"callbacks": [heard]})
    assert heard.events == ["start", *["token"] * len(chunks), "end"]
    limiter = InMemoryRateLimiter(requests_per_second=1000, max_bucket_size=5)
    await streamed(fake_chat_model({"a": "fine"}, rate_limiter=limiter), mode, "hi")
    assert limiter.last is not None
    [first, *_] = await streamed(fake_chat_model({"a": "fine"}, output_version="v1"), mode, "hi")
    assert first.content == [{"type": "text", "text": "fine", "index": 0}]
    model = fake_chat_model({"a": Reply("one two")}, disable_streaming=True)
    assert [chunk.content for chunk in await streamed(model, mode, "hi")] == ["one two"]


@pytest.mark.parametrize("mode", MODES)
async def test_each_call_has_an_id_of_its_own(mode):
    """That of its run, which is made up where the caller gives none."""
    model = fake_chat_model({"a": "fine"})
    ids = {(await plainly(model, mode, "hi")).id for _ in range(3)}
    assert len(ids) == 3
    assert all(UUID(str(one).removeprefix("lc_run--").removesuffix("-0")) for one in ids)


@pytest.mark.parametrize("mode", MODES)
async def test_a_form_asked_for_is_kept(mode):
    """A reply that does not parse is a failure on either way, and the next deployment answers."""
    model = fake_chat_model({"a": Reply("no JSON"), "b": Reply('{"city": "Oslo"}')})
    schema = {"title": "Place", "type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
    with counted_steps() as steps:
        found = [await plainly(model.with_structured_output(schema), mode, "hi")]
    found.append(await by_langchain(model.with_structured_output(schema), mode, "hi"))
    assert found == [{"city": "Oslo"}] * 2
    assert steps == ["past"]


@pytest.mark.parametrize("mode", MODES)
async def test_an_error_is_the_one_that_langchain_raises(mode):
    """Class, text and attempts; where the model's caller is told of it, there is nobody else to tell."""
    errors = []
    for asking in (plainly, by_langchain):
        model = fake_chat_model({"a": Fail("auth"), "b": Fail("server_error")})
        with pytest.raises(ChainExhausted) as caught:
            await asking(model, mode, "hi")
        errors.append((type(caught.value), str(caught.value), caught.value.attempts, caught.value.args))
    assert errors[0] == errors[1]


@pytest.mark.parametrize("mode", MODES)
async def test_an_error_with_a_response_is_raised_as_it_came(mode):
    """LangChain reads the `response` of an error for handlers; here it is nobody's but the caller's."""

    class Refused(Exception):
        response = "whatever it is"

    def refuse(message: AIMessage) -> bool:
        raise Refused("no")

    for asking in (plainly, by_langchain):
        model = fake_chat_model({"a": "fine"}, accept=refuse)
        with pytest.raises(Refused) as caught:
            await asking(model, mode, "hi")
        assert caught.value.response == "whatever it is"


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("words", [{"callbacks": []}, {"metadata": {"a": 1}}, {"run_name": "x"}, {"messages": []}])
async def test_words_that_langchain_refuses_are_refused(words, mode):
    """They belong into the config."""
    errors = []
    for asking in (plainly, by_langchain):
        with pytest.raises(TypeError) as caught:
            await asking(fake_chat_model({"a": "fine"}), mode, "hi", **words)
        errors.append(str(caught.value))
    assert errors[0] == errors[1]


@pytest.mark.parametrize("mode", MODES)
async def test_the_log_says_the_same(mode, caplog):
    """A fallback is told there either way."""
    texts = []
    for asking in (plainly, by_langchain):
        caplog.clear()
        with caplog.at_level(logging.INFO, "llm_fallback"):
            await asking(fake_chat_model({"a": Fail("overloaded"), "b": "fine"}), mode, "hi")
        texts.append([(record.levelname, record.getMessage()) for record in caplog.records])
    assert texts[0] == texts[1] != []


async def test_the_run_around_it_is_known():
    """Within a chain nobody listens to either, the call still belongs to the chain's run."""
    seen: list[Any] = []
    model = fake_chat_model({"a": "fine"})

    async def ask(_: Any) -> None:
        with counted_steps() as steps:
            await model.ainvoke("hi")
        seen.extend(steps)

    await RunnableLambda(ask).ainvoke("x")
    assert seen == ["past"]


class Heard(BaseCallbackHandler):
    def __init__(self) -> None:
        self.events: list[str] = []

    def on_chat_model_start(self, *args: Any, **kwargs: Any) -> None:
        self.events.append("start")

    def on_llm_new_token(self, *args: Any, **kwargs: Any) -> None:
        self.events.append("token")

    def on_llm_end(self, *args: Any, **kwargs: Any) -> None:
        self.events.append("end")

    def on_llm_error(self, error: BaseException, **kwargs: Any) -> None:
        self.events.append("error")


@pytest.mark.parametrize("mode", MODES)
class TestListening:
    """Whoever listens, by any of LangChain's ways, hears of every call."""

    async def test_a_handler_of_the_config_or_the_model_hears(self, mode):
        """Of beginning, end and error."""
        heard = Heard()
        await plainly(fake_chat_model({"a": "fine"}), mode, "hi", {"callbacks": [heard]})
        await plainly(fake_chat_model({"a": "fine"}, callbacks=[heard]), mode, "hi")
        with pytest.raises(ChainExhausted):
            await plainly(fake_chat_model({"a": Fail("auth")}, callbacks=[heard]), mode, "hi")
        assert heard.events == ["start", "end", "start", "end", "start", "error"]

    async def test_a_handler_of_the_run_around_it_hears(self, mode):
        """A chain's handlers are inherited."""
        heard, model = Heard(), fake_chat_model({"a": "fine"})

        def ask(_: Any) -> AIMessage:
            return model.invoke("hi")

        async def aask(_: Any) -> AIMessage:
            return await model.ainvoke("hi")

        await plainly(RunnableLambda(ask, aask), mode, "x", {"callbacks": [heard]})
        assert heard.events == ["start", "end"]

    async def test_a_handler_in_a_context_variable_hears(self, mode):
        """As LangChain's for usage."""
        with get_usage_metadata_callback() as heard:
            await plainly(fake_chat_model({"a": Reply("fine", usage=(3, 1))}), mode, "hi")
        [usage] = heard.usage_metadata.values()
        assert usage["input_tokens"] == 3

    async def test_a_handler_of_ours_hears(self, mode):
        """Costs are booked for every call."""
        costs = CostCallbackHandler()
        await plainly(fake_chat_model({"a": "fine"}), mode, "hi", {"callbacks": [costs]})
        assert costs.snapshot()["calls"] == 1

    async def test_debugging_and_verbose_models_print(self, mode, capsys):
        """They are handlers, made when they are asked for."""
        langchains.set_debug(True)
        try:
            await plainly(fake_chat_model({"a": "fine"}), mode, "hi")
        finally:
            langchains.set_debug(False)
        assert "[llm/start]" in capsys.readouterr().out

    async def test_listeners_hear_what_they_did(self, mode):
        """Events, with the metadata that LangChain puts together."""
        events: list[list[Any]] = [[], []]
        for asking, heard in zip((plainly, by_langchain), events, strict=True):
            model = fake_chat_model({"a": Fail("auth"), "b": "fine"}, listeners=[heard.append])
            await asking(model, mode, "hi", {"run_id": UUID(int=1)})
        told = [[(event.name, getattr(event, "metadata", None)) for event in heard] for heard in events]
        assert told[0] == told[1] != []


@pytest.mark.parametrize("mode", MODES)
class TestAside:
    """What LangChain does beside telling."""

    async def test_a_cache_answers(self, mode):
        """The model's own or everybody's; `cache=False` asks none."""
        model = fake_chat_model({"a": ["one", "two"]}, cache=InMemoryCache())
        assert [(await plainly(model, mode, "hi")).content for _ in range(2)] == ["one", "one"]
        langchains.set_llm_cache(InMemoryCache())
        try:
            model = fake_chat_model({"a": ["one", "two"]})
            assert [(await plainly(model, mode, "hi")).content for _ in range(2)] == ["one", "one"]
            model = fake_chat_model({"a": ["one", "two"]}, cache=False)
            assert [(await plainly(model, mode, "hi")).content for _ in range(2)] == ["one", "two"]
        finally:
            langchains.set_llm_cache(None)

    async def test_a_cache_that_is_not_there_is_refused(self, mode):
        """As LangChain refuses it."""
        with pytest.raises(ValueError, match="no cache found"):
            await plainly(fake_chat_model({"a": "fine"}, cache=True), mode, "hi")

    async def test_a_rate_limiter_is_waited_for(self, mode):
        """Each call takes one place."""
        limiter = InMemoryRateLimiter(requests_per_second=1000, max_bucket_size=5)
        await plainly(fake_chat_model({"a": "fine"}, rate_limiter=limiter), mode, "hi")
        assert limiter.last is not None

    async def test_content_is_rewritten_where_asked(self, mode):
        """`output_version="v1"` is LangChain's."""
        message = await plainly(fake_chat_model({"a": "fine"}, output_version="v1"), mode, "hi")
        assert message.content == [{"type": "text", "text": "fine"}]

    async def test_a_call_that_asks_for_a_stream_is_streamed(self, mode):
        """By the word of a call or of the model."""
        for words, fields in (({"stream": True}, {}), ({}, {"streaming": True})):
            model = fake_chat_model({"a": "fine"}, **fields)
            await plainly(model, mode, "hi", **words)
            assert [request.stream for request in model.received()] == [True]

    async def test_who_wraps_a_step_of_langchain_s_sees_every_call(self, mode, monkeypatch):
        """As instruments do."""
        seen: list[str] = []
        for name in ("generate", "agenerate", "_generate_with_cache", "_agenerate_with_cache"):
            step = getattr(BaseChatModel, name)

            @wraps(step)
            def wrapped(*args: Any, _step: Any = step, **kwargs: Any) -> Any:
                seen.append(_step.__name__)
                return _step(*args, **kwargs)

            monkeypatch.setattr(BaseChatModel, name, wrapped)
        await plainly(fake_chat_model({"a": "fine"}), mode, "hi")
        assert len(seen) == 2


async def test_many_threads_and_tasks_get_their_own_answers():
    """Nothing of a call is kept at the model."""
    model = fake_chat_model()
    said = await asyncio.gather(*(model.ainvoke(f"say {number}") for number in range(20)))
    found: dict[int, str] = {}

    def ask(number: int) -> None:
        found[number] = model.invoke(f"say {number}").text

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [found[number] for number in range(20)] == [message.text for message in said]
    assert all(str(number) in message.text for number, message in enumerate(said))
