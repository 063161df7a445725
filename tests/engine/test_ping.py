"""`model.ping()`: whether deployments answer, and what is known of those that do not."""

from __future__ import annotations

import asyncio
import json
import math
import threading
from collections.abc import Mapping
from typing import Any

import pytest
from pydantic import SecretStr

from llm_fallback import ChainExhausted, build_chat_model
from llm_fallback.engine.ping import EndpointChecks, Endpoints, HttpPage, ProbeResult, endpoints_of, ping_result, pings
from llm_fallback.engine.transport import Chunk, Fault, StreamEnd
from llm_fallback.engine.virtual_clock import JumpingClock
from llm_fallback.plan.plan import Target
from llm_fallback.spec.providers import BACKENDS
from llm_fallback.testing import Cut, Empty, Fail, FakeServer, Garbage, Reply, Stall
from tests.end_to_end.test_secrets import shown_by

CANARY = "sk-canary-0123456789abcdef"
SECRET = SecretStr(CANARY)


def target(backend: str | None = "vllm", model: str = "m", api_base: str | None = "http://gpu:8000/v1", **more: Any):
    """A deployment of which nothing but its address is known."""
    prefix = BACKENDS[backend].prefix if backend else ""
    parameters = {"model": f"{prefix}{model}", **({"api_base": api_base} if api_base else {})}
    return Target("it", model, model, parameters, backend=backend, **more)


async def ping_of(model, how, **asked):
    """The same in both ways."""
    return model.ping(**asked) if how == "ping" else await model.aping(**asked)


@pytest.mark.parametrize("how", ["ping", "aping"])
class TestOverHTTP:
    async def test_who_answers_works_and_tells_how_fast(self, how):
        """One request for one token, streamed, and a look at what the server lists."""
        with FakeServer({"a": "hello", "b": "x"}) as server, build_chat_model(server.spec(backend="vllm")) as model:
            told = await ping_of(model, how)
            assert [request.body["max_tokens"] for request in server.received()] == [1, 1]
        assert list(told) == ["a", "b"]
        assert told["a"].pop("round_trip_s") > 0
        assert told["a"].pop("first_token_s") > 0
        assert json.loads(json.dumps(told["a"])) == {
            "deployment": "a",
            "model": "a",
            "works": True,
            "reachable": True,
            "ready": True,
            "served": True,
            "key_accepted": None,
            "failure": None,
            "status": None,
            "message": None,
            "remedy": None,
            "serves": ["a"],
        }

    @pytest.mark.parametrize(
        ("script", "failure", "remedy"),
        [
            (Fail(401), "auth", "the server asks for a key"),
            (Fail(404), "not_found", "model 'it' is not served here; it serves: a"),
            (Fail(429, retry_after=7), "rate_limited", "asks for 7 s of patience"),
            (Fail("quota_exhausted"), "quota_exhausted", "no credit left"),
            (Fail(503), "overloaded", "still starting, or full"),
            (Fail(500), "server_error", "its log says more"),
            (Fail(400), "bad_request", "are model and params right?"),
            (Fail("connection"), "connection", "the server breaks the connection"),
            (Garbage("html"), "invalid_response", "/a/v1/chat/completions answers is no chat completion"),
            (Empty(finish="abort"), "stream_broken", "is no chat completion"),
            (Cut(0), "connection", "the server breaks the connection"),
            (Stall(), "timeout", "the server is up and does not answer"),
        ],
    )
    async def test_who_does_not_is_told_by_the_word_for_it_and_what_to_do(self, how, script, failure, remedy):
        """Its health page says 200 all the while: only the answered request says `works`."""
        with FakeServer({"a": script}) as server:
            spec = server.spec(backend="vllm", deployments={"a": {"model": "it"}})
            with build_chat_model(spec) as model:
                # Only a server that says nothing is to run out of time, however busy this machine is.
                told = (await ping_of(model, how, timeout_s=0.5 if failure == "timeout" else 20))["a"]
        assert (told["works"], told["failure"]) == (False, failure)
        assert remedy in told["remedy"]
        assert told["reachable"] is True
        assert told["message"]

    async def test_nobody_there_is_told_with_the_address_but_for_its_password(self, how):
        """And is unreachable."""
        spec = {
            "deployments": {"a": {"backend": "vllm", "model": "x", "api_base": f"http://me:{CANARY}@127.0.0.1:9"}},
            "chains": {"c": {"tiers": ["a"]}},
        }
        with build_chat_model(spec) as model:
            told = (await ping_of(model, how))["a"]
        assert (told["works"], told["reachable"], told["failure"]) == (False, False, "connection")
        assert "nothing answers at http://127.0.0.1:9/v1" in told["remedy"]
        assert CANARY not in json.dumps(told)

    async def test_an_open_breaker_neither_keeps_it_back_nor_is_touched(self, how):
        """What calls know of deployments is the same before and after, whatever the ping finds."""
        with FakeServer({"a": [Fail(401), "back again"], "b": Fail(500)}) as server:
            with build_chat_model(server.spec(retries={"max": 0})) as model:
                with pytest.raises(ChainExhausted):
                    model.invoke("hi")
                before = {name: {**known, "retry_in_s": None} for name, known in model.state().items()}
                told = await ping_of(model, how)
                after = {name: {**known, "retry_in_s": None} for name, known in model.state().items()}
        assert before["a"]["breaker"] == "open"
        assert (told["a"]["works"], told["b"]["works"]) == (True, False)
        assert after == before

    async def test_a_limit_neither_keeps_it_back_nor_is_used_up(self, how):
        """The next call has the whole minute."""
        with FakeServer({"a": "hello"}) as server:
            with build_chat_model(server.spec(deployments={"a": {"limits": {"rpm": 1}}})) as model:
                assert all([(await ping_of(model, how))["a"]["works"] for _ in range(2)])
                assert model.invoke("hi").content == "hello"

    async def test_a_chain_may_be_named(self, how):
        """Then only its deployments are asked, those of its other routes too; a wrong name is told with the nearest."""
        with FakeServer({"a": "x", "b": "y", "c": "z"}) as server:
            spec = server.spec(tiers=["a"])
            spec["chains"]["cheap"] = {"tiers": ["b"], "on_context_window": ["c"]}
            with build_chat_model({**spec, "default_chain": "default"}) as model:
                assert list(await ping_of(model, how, chain="cheap")) == ["b", "c"]
                assert list(await ping_of(model, how)) == ["a", "b", "c"]
                with pytest.raises(ValueError, match="did you mean 'cheap'"):
                    await ping_of(model, how, chain="cheep")

    async def test_a_key_is_sent_with_each_request_and_shown_nowhere(self, how):
        """Also where the server echoes it."""
        body = {"error": {"message": f"Incorrect API key provided: {CANARY}", "code": "invalid_api_key"}}
        with FakeServer({"a": Fail(401, body=body)}) as server:
            with build_chat_model(server.spec(deployments={"a": {"api_key": CANARY}})) as model:
                told = (await ping_of(model, how))["a"]
            assert server.received()[0].headers["authorization"] == f"Bearer {CANARY}"
        assert told["key_accepted"] is False
        assert told["remedy"] == "the server refuses the key in api_key"
        assert CANARY not in json.dumps(told)

    async def test_a_key_that_is_a_function_is_asked_where_the_ping_is(self, how):
        """In the caller's own thread."""
        asked_in = []

        def key():
            asked_in.append(threading.current_thread())
            return CANARY

        with FakeServer({"a": "hello"}) as server:
            with build_chat_model(server.spec(deployments={"a": {"api_key": key}})) as model:
                told = (await ping_of(model, how))["a"]
        assert (told["works"], told["key_accepted"]) == (True, True)
        assert asked_in == [threading.current_thread()]

    async def test_a_closed_model_pings_nobody(self, how):
        """As it answers nobody."""
        with FakeServer({"a": "hello"}) as server:
            model = build_chat_model(server.spec())
            model.close()
            with pytest.raises(RuntimeError, match="closed"):
                await ping_of(model, how)

    async def test_one_that_hangs_takes_its_own_time_and_nobody_else_s(self, how):
        """All are asked at once."""
        with FakeServer({"a": Stall(), "b": "fine", "c": Stall()}) as server, build_chat_model(server.spec()) as model:
            told = await ping_of(model, how, timeout_s=0.4)
        assert [told[name]["works"] for name in "abc"] == [False, True, False]
        assert told["b"]["first_token_s"] < 0.4


async def test_a_key_function_may_be_async_in_either_ping():
    """A thread has it asked on the loop of sync calls."""

    async def key():
        return CANARY

    with FakeServer({"a": "hello"}) as server:
        with build_chat_model(server.spec(deployments={"a": {"api_key": key}})) as model:
            assert (await model.aping())["a"]["works"]
            assert model.ping()["a"]["works"]
        assert {request.headers["authorization"] for request in server.received()} == {f"Bearer {CANARY}"}


async def test_a_ping_that_is_left_closes_its_requests_and_shows_no_key():
    """A cancelled task leaves nothing under way."""
    with FakeServer({"a": Stall(), "b": Stall()}) as server:
        spec = server.spec(deployments={name: {"api_key": CANARY} for name in "ab"})
        async with build_chat_model(spec) as model:
            task = asyncio.create_task(model.aping(timeout_s=60))
            await server.await_until(lambda: len(server.received()) == 2)
            task.cancel()
            with pytest.raises(asyncio.CancelledError) as caught:
                await task
            await server.await_until(lambda: all(received.client_gone_at for received in server.received()))
    assert CANARY not in shown_by(caught.value)


async def test_a_parameter_of_the_deployment_for_the_reply_s_length_is_the_one_that_is_set():
    """Two at once are refused by those who know the newer one."""
    with FakeServer({"a": "hello"}) as server:
        own = {"params": {"max_completion_tokens": 500}}
        async with build_chat_model(server.spec(deployments={"a": own})) as model:
            await model.aping()
        body = server.received()[0].body
    assert (body.get("max_completion_tokens"), body.get("max_tokens")) == (1, None)


class FakeLookout:
    """Pages and a stream by hand; whatever is infinite never comes."""

    def __init__(self, clock: JumpingClock, pages: Mapping[str, Any], stream: list[Any]) -> None:
        self._clock, self._endpoints, self._stream = clock, pages, list(stream)
        self.closed = False

    async def get_page(self, target: Target, url: str, api_key: SecretStr | None) -> HttpPage | Fault | None:
        page = self._endpoints[url]
        if page is math.inf:
            await self._clock.sleep(1e9)
        return page

    def exchange(self, target: Target, request: Mapping[str, Any], api_key: SecretStr | None) -> FakeLookout:
        return self

    async def next(self) -> Any:
        item = self._stream.pop(0)
        if isinstance(item, float):
            await self._clock.sleep(item)
            return await self.next()
        return item

    async def close(self) -> None:
        self.closed = True


async def pinged(pages: Mapping[str, Any], stream: list[Any]):
    """One ping, in time that jumps."""
    clock = JumpingClock()
    lookout = FakeLookout(clock, pages, stream)
    (found,) = [ping async for ping in pings([target()], {"it": None}, lookout, clock, 10.0)]
    assert lookout.closed
    return found


HEALTH, MODELS = "http://gpu:8000/health", "http://gpu:8000/v1/models"
LISTED = HttpPage(200, {"data": [{"id": "m"}, {"id": "n"}]}, 0.01)


class TestInTimeThatJumps:
    async def test_a_health_page_that_hangs_does_not_keep_the_answer(self):
        """Nor does it speak against it."""
        found = await pinged({HEALTH: math.inf}, [0.5, Chunk(None, text="p"), StreamEnd("stop")])
        assert (found["works"], found["ready"], found["round_trip_s"], found["first_token_s"]) == (
            True,
            True,
            None,
            0.5,
        )

    async def test_a_server_that_loads_its_model_is_there_and_not_ready(self):
        """Which its own page says best."""
        found = await pinged({HEALTH: HttpPage(503, None, 0.02), MODELS: LISTED}, [math.inf])
        assert (found["works"], found["reachable"], found["ready"], found["served"]) == (False, True, False, True)
        assert (found["failure"], found["message"], found["round_trip_s"]) == ("timeout", "no answer within 10 s", 0.02)

    async def test_a_role_is_no_token_and_an_end_without_any_is_an_answer(self):
        """The first token is content; a model that thinks may spend the one it has without a word."""
        found = await pinged({HEALTH: LISTED, MODELS: LISTED}, [0.1, Chunk(None), 0.2, StreamEnd("length")])
        assert (found["works"], found["first_token_s"]) == (True, None)

    async def test_where_there_is_no_server_there_are_no_pages(self):
        """As in a fake."""
        found = await pinged({HEALTH: None}, [Chunk(None, text="p")])
        assert (found["works"], found["round_trip_s"], found["serves"]) == (True, None, [])


class TestPages:
    @pytest.mark.parametrize("backend", list(BACKENDS))
    def test_they_are_those_of_the_backend_s_row(self, backend):
        """Health on the server's root, the listing beside the chat."""
        expected = Endpoints(f"http://gpu:8000{BACKENDS[backend].health}", "http://gpu:8000/v1/models")
        assert endpoints_of(target(backend)) == expected

    def test_under_a_path_and_with_a_version_of_its_own(self):
        """They keep both."""
        assert endpoints_of(target("vllm", api_base="http://gw/a/v4")) == Endpoints(
            "http://gw/a/health", "http://gw/a/v4/models"
        )

    def test_of_a_provider_nothing_is_known(self):
        """But of OpenAI's protocol at an address of one's own, where models are listed."""
        assert endpoints_of(target(None, "anthropic/claude", None)) == Endpoints()
        assert endpoints_of(target(None, "openai/gpt-4.1", None)) == Endpoints()
        assert endpoints_of(target(None, "openai/x", "http://h/v1")) == Endpoints(None, "http://h/v1/models")


@pytest.mark.parametrize(
    ("checks", "fault", "known"),
    [
        # reachable, ready, served, key accepted
        (EndpointChecks(), None, (True, True, True, True)),
        (EndpointChecks(), Fault("connection", "refused"), (False, None, None, None)),
        (EndpointChecks(), Fault("timeout", "late"), (None, None, None, None)),
        (EndpointChecks(0.1, health=200), Fault("timeout", "late"), (True, True, None, None)),
        (EndpointChecks(0.1, health=404), Fault("server_error", "", 500), (True, None, None, None)),
        (EndpointChecks(0.1, health=500), Fault("server_error", "", 500), (True, False, None, None)),
        (EndpointChecks(0.1, health=200), Fault("overloaded", "", 503), (True, False, None, None)),
        (EndpointChecks(0.1, listing=200, serves=("n",)), Fault("not_found", "", 404), (True, None, False, True)),
        (EndpointChecks(0.1, listing=200, serves=("m",)), Fault("not_found", "", 404), (True, None, True, True)),
        (EndpointChecks(), Fault("not_found", "", 404), (True, None, False, None)),
        (EndpointChecks(0.1, listing=401), Fault("bad_request", "", 400), (True, None, None, False)),
        (EndpointChecks(0.1, listing=403), None, (True, True, True, True)),
        (EndpointChecks(), Fault("auth", "", 403), (True, None, None, False)),
        (EndpointChecks(), Fault("auth", ""), (None, None, None, None)),
        (EndpointChecks(), Fault("bad_request", ""), (None, None, None, None)),
    ],
)
def test_what_sight_and_answer_amount_to(checks, fault, known):
    """None is not known; an answer outweighs every page."""
    found = ping_result(target(), checks, ProbeResult(fault=fault), key=SECRET)
    assert (found["reachable"], found["ready"], found["served"], found["key_accepted"]) == known


@pytest.mark.parametrize(
    ("asked", "key", "fault", "remedy"),
    [
        (target(), None, Fault("auth", "", 401), "the server asks for a key: write it as api_key"),
        (target(), SECRET, Fault("auth", "", 403), "the key may not use this model"),
        (
            target(None, "openai/gpt-4.1", None, uses_provider_credentials=True),
            None,
            Fault("auth", "", 401),
            "the provider refuses the key in OPENAI_API_KEY, or it is not set",
        ),
        (
            target(None, "bedrock/anthropic.claude", None, uses_provider_credentials=True),
            None,
            Fault("auth", "Unable to locate credentials"),
            "no credentials were found, or they are refused: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",
        ),
        (
            target(None, "vertex_ai/gemini-2.5-pro", None, uses_provider_credentials=True),
            None,
            Fault("auth", ""),
            "no credentials were found, or they are refused: set GOOGLE_APPLICATION_CREDENTIALS",
        ),
        (
            target(None, "gemini/g", None, uses_provider_credentials=True),
            None,
            Fault("auth", ""),
            "set GEMINI_API_KEY or GOOGLE_API_KEY, or write the key as api_key",
        ),
        (target(), SECRET, Fault("not_found", "", 404), "model 'm' is not served here, or api_base is not right"),
        (target(None, "openai/x", None), SECRET, Fault("connection", ""), "there is no connection to the provider"),
        (target(), SECRET, Fault("timeout", ""), "no word from http://gpu:8000/v1"),
        (target(), SECRET, Fault("rate_limited", "", 429), "it is throttled"),
        (target(), SECRET, Fault("content_policy", "", 400), None),
    ],
)
def test_the_remedy_fits_what_is_known(asked, key, fault, remedy):
    """Whose key it was, whether the server was seen, what it serves."""
    found = ping_result(asked, EndpointChecks(), ProbeResult(fault=fault), key=key)["remedy"]
    assert found is None if remedy is None else remedy in found


def test_a_server_that_lists_the_model_and_does_not_know_it_is_asked_at_the_wrong_place():
    """Of many that it serves some are named."""
    gone = Fault("not_found", "", 404)
    listed = ping_result(target(), EndpointChecks(serves=("m",)), ProbeResult(fault=gone), key=None)["remedy"]
    many = ping_result(target(), EndpointChecks(serves=tuple(map(str, range(99)))), ProbeResult(fault=gone), key=None)[
        "remedy"
    ]
    assert "lists model 'm' and does not answer for it" in listed
    assert many.endswith("it serves: 0, 1, 2, 3, 4, 5, 6, 7")


def test_a_slow_reply_is_no_failure_as_long_as_it_begins_in_time():
    """Its rest is not waited for."""
    with FakeServer({"a": Reply("one two three", chunk_delay_s=5)}) as server, build_chat_model(server.spec()) as model:
        assert model.ping(timeout_s=2)["a"]["works"]
