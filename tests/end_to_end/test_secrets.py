"""No API key of the spec in anything that is shown: measured with a canary over every failure and mode."""

from __future__ import annotations

import asyncio
import io
import json
import logging
import pickle
import traceback

import pytest

from llm_fallback import SpecError, build_chat_model, load_spec
from llm_fallback.testing import Cut, Fail, FakeServer, Garbage, Stall
from tests.asking import MODES, TWO_MODES, ask
from tests.thinning import combinations

CANARY = "sk-canary-7f3a9b2c4d5e6f"
HEADER_CANARY = "Bearer canary-header-91ac"


def shown_by(error: BaseException) -> str:
    """All that a curious reporter could print of an error: text, attributes, chain, and locals of every frame but
    the caller's own."""
    seen: set[int] = set()
    texts: list[str] = []
    pending: list[BaseException | None] = [error]
    while pending:
        current = pending.pop()
        if current is None or id(current) in seen:
            continue
        seen.add(id(current))
        texts += [str(current), repr(current), repr(vars(current)), repr(current.args)]
        texts.append("".join(traceback.format_exception(current)))
        texts += frames_of(current)
        pending += [current.__cause__, current.__context__]
    return "\n".join(texts)


def frames_of(error: BaseException) -> list[str]:
    texts = []
    trace = error.__traceback__
    while trace is not None:
        if "/tests/" not in trace.tb_frame.f_code.co_filename:
            for value in trace.tb_frame.f_locals.values():
                texts.append(repr(value))
                texts.append(repr(getattr(value, "__dict__", "")))
        trace = trace.tb_next
    return texts


def spec_with_canaries(server: FakeServer, **chain) -> dict:
    own = {"api_key": CANARY, "params": {"extra_headers": {"X-Api-Key": HEADER_CANARY}}}
    return server.spec(deployments=dict.fromkeys(server.deployments, own), **chain)


ECHO = {
    "error": {"message": f"Incorrect API key provided: {CANARY}, header {HEADER_CANARY}", "code": "invalid_api_key"}
}
SCRIPTS = {
    "auth_echo": Fail(401, body=ECHO),
    "server_error_echo": Fail(500, body=ECHO),
    "bad_request_echo": Fail(400, body=ECHO),
    "text_echo": Fail(503, body=f"no {CANARY} for you"),
    "rate_limited": Fail(429),
    "reset": Fail("connection"),
    "html": Garbage("html"),
    "truncated": Garbage("truncated"),
    "no_choices": Garbage("no_choices"),
    "hang": Stall(),
    "cut": Cut(after_chunks=2),
    "error_frame": Cut(after_chunks=2, how="error_frame"),
}


@pytest.mark.parametrize(("case", "mode"), combinations(SCRIPTS, MODES, fast=lambda case, mode: mode in TWO_MODES))
async def test_no_error_that_leaves_the_model_shows_a_key(case, mode, caplog):
    """Neither text, attributes, causes, frames nor log records show it, also when the server echoes it."""
    caplog.set_level(logging.DEBUG, "llm_fallback")
    with FakeServer({"primary": SCRIPTS[case]}) as server:
        patience = {"total_s": 0.6, "attempt_s": 0.3} if case == "hang" else {}
        spec = spec_with_canaries(server, timeouts=patience, retries={"max": 0})
        with build_chat_model(spec) as model:
            with pytest.raises(Exception) as caught:
                await ask(model, mode)
            shown = shown_by(caught.value)
            assert server.received("primary")[0].headers["authorization"] == f"Bearer {CANARY}"
            assert server.received("primary")[0].headers["x-api-key"] == HEADER_CANARY
    for canary in (CANARY, HEADER_CANARY):
        assert canary not in shown
        assert canary not in caplog.text
    assert CANARY.encode() not in pickle.dumps(caught.value)


async def test_a_cancelled_call_shows_no_key():
    """CancelledError leaves without litellm's frames, and so without what they knew."""
    with FakeServer({"primary": Stall()}) as server:
        async with build_chat_model(spec_with_canaries(server)) as model:
            task = asyncio.create_task(model.ainvoke("hi"))
            await asyncio.to_thread(server.wait_until, lambda: server.received("primary"))
            task.cancel()
            with pytest.raises(asyncio.CancelledError) as caught:
                await task
    assert CANARY not in shown_by(caught.value)


async def test_metadata_events_and_state_show_no_key():
    """What a fallback tells about a server that echoes the key is struck clean."""
    events: list[object] = []
    with FakeServer({"primary": Fail(401, body=ECHO), "backup": "fine"}) as server:
        with build_chat_model(spec_with_canaries(server), listeners=[events.append]) as model:
            message = model.invoke("hi")
            told = [repr(events), json.dumps(message.response_metadata), repr(message), json.dumps(model.state())]
            told += [json.dumps(model.explain()), repr(model), str(model), repr(model.spec), repr(vars(model))]
            told += [
                model.model_dump_json(exclude={"client", "callbacks"}),
                str(model.asdict()),
                repr(model.runtime.plan),
            ]
    for text in told:
        assert CANARY not in text
        assert HEADER_CANARY not in text
    assert "***" in message.response_metadata["llm_fallback"]["attempts"][0]["message"]


def test_a_spec_error_shows_no_key(tmp_path):
    """A mistake beside a key names the mistake and not the key, nor do the frames it comes from."""
    path = tmp_path / "llm-fallback.yaml"
    path.write_text(
        f"deployments:\n  a: {{model: openai/gpt-4.1, api_key: {CANARY}, wieght: 2}}\nchains: {{c: {{tiers: [a]}}}}\n"
    )
    with pytest.raises(SpecError) as caught:
        load_spec(path)
    assert CANARY not in shown_by(caught.value)


def test_a_key_function_is_asked_per_attempt_and_never_shown():
    """A key that is a function is asked where the call is made, for every attempt anew, and struck like others."""
    keys = iter([f"{CANARY}-1", f"{CANARY}-2"])
    out = io.StringIO()
    handler = logging.StreamHandler(out)
    logging.getLogger("llm_fallback").addHandler(handler)
    try:
        with FakeServer(
            {"primary": Fail(401, body={"error": {"message": f"no {CANARY}-1"}}), "backup": "fine"}
        ) as server:
            spec = server.spec(deployments={name: {"api_key": lambda: next(keys)} for name in server.deployments})
            with build_chat_model(spec) as model:
                message = model.invoke("hi")
            sent = [server.received(name)[0].headers["authorization"] for name in ("primary", "backup")]
    finally:
        logging.getLogger("llm_fallback").removeHandler(handler)
    assert sent == [f"Bearer {CANARY}-1", f"Bearer {CANARY}-2"]
    assert CANARY not in json.dumps(message.response_metadata)
    assert CANARY not in out.getvalue()
