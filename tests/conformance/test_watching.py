"""Whoever watches, handlers, listeners, events and traces, sees the same of a fake and of the real model."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import pytest
from langchain_core.callbacks import BaseCallbackHandler

from llm_fallback import ChainExhausted, StreamBroken
from llm_fallback.testing import Cut, Fail, Reply
from tests.asking import MODES, ask

TIMED = ("latency_s", "time_to_first_token_s", "message")
SCRIPTS: dict[str, dict[str, Any]] = {
    "falls back": {"a": Fail(429), "b": Reply("one two three", usage=(3, 4))},
    "is exhausted": {"a": Fail(500), "b": Fail("auth")},
    "breaks": {"a": Cut(2, reply="one two three"), "b": "spare"},
}


class Heard(BaseCallbackHandler):
    """Everything LangChain tells a handler of a chat model's run."""

    def __init__(self) -> None:
        self.seen: list[Any] = []

    def on_chat_model_start(self, serialized, messages, *, metadata, invocation_params, **kwargs):
        named = {name: value for name, value in metadata.items() if name.startswith("ls_")}
        params = {name: value for name, value in invocation_params.items() if name not in ("deployments", "_type")}
        self.seen.append(("start", named, {name: value for name, value in params.items() if value is not None}))

    def on_llm_new_token(self, token, **kwargs):
        if token:
            self.seen.append(("token", token))

    def on_custom_event(self, name, data, **kwargs):
        self.seen.append((name, {key: value for key, value in data.items() if key not in TIMED}))

    def on_llm_end(self, response, **kwargs):
        self.seen.append(("end", response.generations[0][0].message.content))

    def on_llm_error(self, error, **kwargs):
        self.seen.append(("error", type(error)))


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("case", SCRIPTS)
async def test_handlers_are_told_the_same(twins, case, mode):
    """Runs, tokens, custom events and errors, in their order."""
    heard = []
    async with twins(SCRIPTS[case]) as models:
        for model in models:
            handler = Heard()
            with suppress(ChainExhausted, StreamBroken):
                await ask(model.bind(temperature=0.5), mode, config={"callbacks": [handler]})
            heard.append(handler.seen)
    assert heard[0] == heard[1]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("case", SCRIPTS)
async def test_listeners_hear_the_same_events(twins, case, mode):
    """Of the engine's own."""
    heard = []
    async with twins(SCRIPTS[case]) as models:
        for model in models:
            events: list[str] = []
            listening = model.model_copy(update={"listeners": [lambda event, events=events: events.append(event.name)]})
            with suppress(ChainExhausted, StreamBroken):
                await ask(listening, mode)
            heard.append(events)
    assert heard[0] == heard[1] != []


async def test_state_and_explanation_are_the_same(twins):
    """What a call may do, and what is known after some."""
    async with twins({"a": Fail(500), "b": "fine"}) as models:
        for model in models:
            for _ in range(4):
                model.invoke("hi")
        real, fake = models
        assert real.explain() == fake.explain()
        untimed = [
            {
                name: {key: value for key, value in facts.items() if not key.endswith("_s")}
                for name, facts in state.items()
            }
            for state in (real.state(), fake.state())
        ]
    assert untimed[0] == untimed[1]


@pytest.mark.parametrize("version", ["v1", "v2"])
async def test_event_streams_are_the_same(twins, version):
    """Kinds and names of events, and the text of their chunks."""
    seen = []
    async with twins({"a": Fail(500), "b": Reply("one two three", usage=(3, 4))}) as models:
        for model in models:
            events = [event async for event in model.astream_events("hi", version=version)]
            named = [event["event"] for event in events if "chunk" not in event.get("data", {})]
            texts = [event["data"]["chunk"].text for event in events if "chunk" in event.get("data", {})]
            seen.append((named, [text for text in texts if text]))
    assert seen[0] == seen[1]
