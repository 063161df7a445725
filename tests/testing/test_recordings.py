"""Recording real exchanges and playing them again, on a server and in the process."""

from __future__ import annotations

import json
from base64 import b64encode
from contextlib import contextmanager

import pytest
from aiohttp import ClientSession
from hypothesis import given
from hypothesis import strategies as st

from llm_fallback import StreamBroken, build_chat_model
from llm_fallback.testing import (
    Cut,
    Empty,
    Fail,
    FakeServer,
    Garbage,
    Reply,
    Stall,
    assert_attempts,
    fake_chat_model,
    recorded,
)
from llm_fallback.testing.recorder import ExchangeRecorder, _masked
from llm_fallback.testing.recordings import Recorded, _exchange, line_of
from tests.asking import MODES, ask
from tests.conformance.conftest import TickingClock
from tests.conformance.facts import facts

KEY = "sk-live-4711-very-secret"
SEEN = {
    "a text": Reply("one two ☃", usage=(11, 5)),
    "reasoning": Reply("so 4", reasoning="2 and 2"),
    "a tool call": Reply(tool_calls=[{"name": "weather", "args": {"city": "Oslo"}}]),
    "throttled": Fail(429, retry_after=7),
    "down": Fail(500),
    "a page": Fail(502, body="<html>no</html>"),
    "refused": Fail("connection"),
    "reset": Cut(2),
    "closed early": Cut(2, how="close"),
    "an error within": Cut(2, how="error_frame"),
    "a bad frame": Cut(2, how="bad_frame"),
    "garbage": Garbage(),
    "empty": Empty(),
}
OWN = {"api_key": KEY, "price": {"input_per_million": 2, "output_per_million": 4}, "timeouts": {"attempt_s": 5}}


@contextmanager
def recording(scripts, file):
    """A recording server in front of a real one, and that one."""
    with FakeServer(scripts) as upstream:
        with FakeServer.record({name: upstream.base(name) for name in upstream.deployments}, file) as server:
            yield server, upstream


def spec_of(server, **settings):
    return server.spec(deployments={name: {**OWN, **settings} for name in server.deployments}, retries={"max": 0})


async def outcome(model, mode):
    try:
        return facts(await ask(model, mode))
    except Exception as error:
        return facts(error)


@pytest.mark.parametrize("mode", MODES)
async def test_what_was_recorded_comes_to_the_same_when_it_is_played(tmp_path, mode):
    """Every kind of answer, through the real model and on a fake: errors, cuts and garbage like replies."""
    file = tmp_path / "exchanges.jsonl"
    with recording({"primary": list(SEEN.values()), "backup": "fine"}, file) as (server, _):
        with build_chat_model(spec_of(server, breaker="off")) as model:
            live = [await outcome(model, mode) for _ in SEEN]
    with FakeServer.replay(file, pace=0) as again, build_chat_model(spec_of(again, breaker="off")) as model:
        assert [await outcome(model, mode) for _ in SEEN] == live
        spec = spec_of(again, breaker="off")
    fake = fake_chat_model(recorded(file, pace=0), spec=spec, clock=TickingClock())
    for before in live:
        now = await outcome(fake, mode)
        assert {**now, "messages": None} == {**before, "messages": None}


def test_no_key_reaches_the_file(tmp_path):
    """Not the one a request carried, wherever it stood; not even where a server repeats it."""
    file = tmp_path / "exchanges.jsonl"
    body = {"error": {"message": f"Incorrect API key provided: {KEY}.", "code": "invalid_api_key"}}
    scripts = {"a": [Fail(401, body=body), Reply(f"you are {KEY}", headers={"X-Echo": KEY})]}
    with recording(scripts, file) as (server, upstream):
        headers = {"extra_headers": {"X-Auth-Token": "tok-98765", "Cookie": "session=abcdef"}}
        with build_chat_model(spec_of(server, params=headers, breaker="off")) as model:
            with pytest.raises(Exception, match="Incorrect"):
                model.invoke("hi")
            message = model.invoke(f"my token is tok-98765 and my key {KEY}")
        sent = upstream.received()[-1].headers
    assert message.content == f"you are {KEY}"
    assert (sent["authorization"], sent["x-auth-token"]) == (f"Bearer {KEY}", "tok-98765")
    text = file.read_text()
    assert not any(secret in text for secret in (KEY, "tok-98765", "abcdef"))
    played = [exchange for tape in recorded(file).values() for exchange in tape.exchanges]
    assert b"Incorrect API key provided: ****" in played[0].parts[0][1]


@pytest.mark.parametrize("size", [1, 3, 10])
def test_a_secret_divided_between_events_is_struck_out(size):
    """As a model says it, a token at a time; the stream stays one, as long as it was."""
    texts = [KEY[at : at + size] for at in range(0, len(KEY), size)]
    events = [
        f'data: {{"id":"1","choices":[{{"delta":{{"content":{json.dumps(text)}}},"index":0}}]}}\n\n'
        for text in ("you are ", *texts, "!")
    ]
    black = _masked([event.encode() for event in events], [KEY])
    said = [json.loads(event.removeprefix(b"data:"))["choices"][0]["delta"]["content"] for event in black]
    assert "".join(said) == f"you are {'*' * len(KEY)}!"


@pytest.mark.parametrize("size", [1, 1000])
def test_a_secret_that_is_spelt_otherwise_is_struck_out_too(size):
    """In base64, and with the escapes of JSON; it stays JSON."""
    spelt = json.dumps({"a": b64encode(f"me:{KEY}".encode()).decode()})[:-1]
    spelt += ', "b": "' + "".join(f"\\u{ord(char):04x}" for char in KEY) + '"}'
    whole = spelt.encode()
    (a, b) = json.loads(b"".join(_masked([whole[at : at + size] for at in range(0, len(whole), size)], [KEY]))).values()
    assert set(b) == {"*"}
    assert a.count("*") >= len(KEY)


@given(pieces=st.lists(st.binary(max_size=6)), data=st.data())
def test_a_secret_divided_between_two_pieces_is_struck_out(pieces, data):
    """Wherever it is divided; nothing else changes, least of all a length."""
    whole = b"".join([*pieces, b"KEY!KEY!", *pieces])
    cut = data.draw(st.integers(0, len(whole)))
    divided = [whole[:cut], whole[cut:]]
    black = _masked(divided, ["KEY!"])
    assert [len(piece) for piece in black] == [len(piece) for piece in divided]
    assert b"".join(black) == whole.replace(b"KEY!", b"****")


@given(
    st.builds(
        Recorded,
        stream=st.booleans(),
        status=st.none() | st.integers(200, 599),
        content_type=st.text(),
        headers=st.dictionaries(st.text(), st.text()),
        length=st.none() | st.integers(0),
        parts=st.lists(st.tuples(st.sampled_from([0.0, 0.25, 3.5]), st.binary())).map(tuple),
        end=st.sampled_from(["whole", "cut", "silence"]),
    )
)
def test_an_exchange_is_read_as_it_was_written(exchange):
    """Any bytes at all, also a part that ends in the middle of a letter."""
    line = line_of("a", {"messages": []}, exchange)
    assert line.count("\n") == 1
    assert _exchange(json.loads(line)) == exchange


async def test_pauses_are_kept_scaled_or_left_out(tmp_path):
    """On a fake's clock, so that nobody waits for them."""
    file = tmp_path / "exchanges.jsonl"
    with recording({"a": Reply(chunks=["one", " two", " three"], delay_s=0.05, chunk_delay_s=0.05)}, file) as (
        server,
        _,
    ):
        async with build_chat_model(spec_of(server)) as model:
            await ask(model, "astream")
    [exchange] = recorded(file)["a"].exchanges
    pauses = [exchange.delay_s, *(pause for pause, _ in exchange.parts)]
    assert sum(pause > 0.04 for pause in pauses) == 3
    for pace in (1, 10, 0):
        message = await ask(fake_chat_model(recorded(file, pace=pace)), "astream")
        latency = message.response_metadata["llm_fallback"]["latency_s"]
        assert latency == pytest.approx(sum(pauses) * pace, abs=1e-6)
        assert message.content == "one two three"


def test_a_silence_that_a_client_left_is_one_again(tmp_path):
    """And on a fake it costs its limit on the clock."""
    file = tmp_path / "exchanges.jsonl"
    limits = {"timeouts": {"first_token_s": 0.3, "idle_s": 0.3}}
    with recording({"a": [Stall(1), Stall()]}, file) as (server, _):
        with build_chat_model(spec_of(server, **limits)) as model:
            with pytest.raises(StreamBroken):
                list(model.stream("x"))
            with pytest.raises(Exception, match="first_token_timeout"):
                list(model.stream("x"))
        spec = spec_of(server, **limits)
    fake = fake_chat_model(recorded(file, pace=0), spec=spec)
    with pytest.raises(StreamBroken) as caught:
        list(fake.stream("x"))
    assert caught.value.partial.content == "The"
    with pytest.raises(Exception, match="first_token_timeout"):
        list(fake.stream("x"))
    assert fake.clock.now() == pytest.approx(0.6)


@pytest.mark.parametrize("stream", [False, True])
async def test_a_client_may_leave_as_soon_as_it_has_all(stream):
    """Before anybody saw the upstream's answer end: that is no silence, on which a replay would wait for ever."""
    script = Reply(chunks=["one", " two"], chunk_delay_s=0.01)
    async with FakeServer({"a": script}) as server, ClientSession() as session:
        request = {"model": "a", "messages": [], "stream": stream}
        async with session.post(f"{server.base('a')}/v1/chat/completions", json=request) as response:
            recorder = ExchangeRecorder(stream)
            recorder.begin(response)
            ends = [recorder.without([]).end]
            async for data in response.content.iter_any():
                recorder.add(data)
                ends.append(recorder.without([]).end)
    assert ends == ["silence"] * (len(ends) - 1) + ["whole"]


def test_a_tape_that_is_over_says_so():
    """It makes nothing up."""
    exchange = Recorded(False, status=503, parts=((0.0, b"no"),))
    from llm_fallback.testing.recordings import Tape

    model = fake_chat_model({"a": Tape("a", (exchange,)), "b": "fine"})
    assert_attempts(model.invoke("x"), "a: overloaded", "b: succeeded")
    message = model.invoke("x")
    assert_attempts(message, "a: bad_request", "b: succeeded")
    assert "all 1 exchanges recorded with 'a'" in message.response_metadata["llm_fallback"]["attempts"][0]["message"]


def test_a_stream_is_not_played_to_who_asks_for_a_whole_reply(tmp_path):
    """The bytes would make no sense; it says what was recorded."""
    file = tmp_path / "exchanges.jsonl"
    with recording({"a": "hi"}, file) as (server, _), build_chat_model(spec_of(server)) as model:
        list(model.stream("x"))
    with pytest.raises(Exception, match="this exchange was recorded as a stream"):
        fake_chat_model(recorded(file), retries={"max": 0}).invoke("x")


def test_recording_again_forgets_what_was_recorded_before(tmp_path):
    """A file is one recording."""
    file = tmp_path / "exchanges.jsonl"
    for text in ("first", "second"):
        with FakeServer({"a": text}) as upstream, FakeServer.record(upstream.base("a"), file) as server:
            assert server.deployments == ["upstream"]
            with build_chat_model(server.spec()) as model:
                model.invoke("x")
    assert fake_chat_model(recorded(file, pace=0)).invoke("x").content == "second"


@pytest.mark.parametrize("line", ["no json", "{}", '{"deployment": "a", "parts": [[0]]}', "[]"])
def test_a_file_that_is_no_recording_is_refused_with_its_line(tmp_path, line):
    """By number."""
    file = tmp_path / "exchanges.jsonl"
    file.write_text(line_of("a", {}, Recorded(True)) + line)
    with pytest.raises(ValueError, match=r"exchanges.jsonl:2: not a recorded exchange"):
        recorded(file)


@pytest.mark.parametrize(
    ("spoilt", "told"),
    [
        (b"\xff", "invalid start byte"),
        (b"[" * 100_000, "nested too deep"),
        ({"parts": [[0, 5]]}, "parts.0.1: Input should be a valid string"),
        ({"stream": "a"}, "stream: Input should be a valid boolean"),
        ({"delay_s": -1}, "delay_s: Input should be greater than or equal to 0"),
        ({"delay_s": float("nan")}, "delay_s: Input should be a finite number"),
        ({"status": 7}, "status: Input should be greater than or equal to 100"),
        ({"headers": {"retry-after": 7}}, "headers.retry-after: Input should be a valid string"),
        ({"end": "slowly"}, "end: Input should be 'whole', 'cut' or 'silence'"),
    ],
)
def test_a_value_that_no_recording_has_is_told_with_its_line(tmp_path, spoilt, told):
    """When the file is read, and not in the middle of a test that plays it."""
    whole = line_of("a", {}, Recorded(stream=False, status=200))
    line = spoilt if isinstance(spoilt, bytes) else json.dumps(json.loads(whole) | spoilt).encode()
    file = tmp_path / "exchanges.jsonl"
    file.write_bytes(whole.encode() + line)
    with pytest.raises(ValueError, match=r"exchanges.jsonl:2: not a recorded exchange") as caught:
        recorded(file)
    assert told in str(caught.value)
