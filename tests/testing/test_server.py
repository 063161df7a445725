"""What a client meets at the fake server, byte by byte and without litellm."""

import asyncio
import json
import threading
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

import httpx
import pytest

from llm_fallback.testing import Cut, Empty, Fail, FakeServer, Garbage, Reply, Stall

Document = dict[str, Any]


def request_to(server: FakeServer, name: str, **body: Any) -> Document:
    request = {"model": name, "messages": [{"role": "user", "content": "hi"}], **body}
    return {"url": f"{server.base(name)}/v1/chat/completions", "json": request}


def ask(server: FakeServer, name: str, **body: Any) -> httpx.Response:
    return httpx.post(**request_to(server, name, **body), timeout=5, verify=False)


def frames(text: str) -> list[str]:
    return [line.removeprefix("data: ") for line in text.split("\n\n") if line.startswith("data: ")]


def chunks(text: str) -> list[Document]:
    return [json.loads(frame) for frame in frames(text) if frame != "[DONE]"]


def deltas(text: str) -> list[Document]:
    return [choice["delta"] for chunk in chunks(text) for choice in chunk["choices"]]


def streamed_text(text: str) -> str:
    return "".join(delta.get("content") or "" for delta in deltas(text))


def finishes(text: str) -> list[str]:
    reasons = [choice["finish_reason"] for chunk in chunks(text) for choice in chunk["choices"]]
    return [reason for reason in reasons if reason]


def read_to_the_end(server: FakeServer, name: str, **body: Any) -> tuple[str, Exception | None]:
    """All a stream brings, and the error it ends with."""
    text = ""
    try:
        with httpx.stream("POST", **request_to(server, name, **body), timeout=0.2, verify=False) as response:
            for piece in response.iter_text():
                text += piece
    except httpx.HTTPError as error:
        return text, error
    return text, None


class TestReply:
    def test_a_text_is_a_completion_with_usage_and_a_request_id(self) -> None:
        """A `str` comes back whole, from the model that was asked for."""
        with FakeServer({"a": "hello world"}) as server:
            response = ask(server, "a")
        document = response.json()
        assert document["choices"][0]["message"] == {"role": "assistant", "content": "hello world"}
        assert document["choices"][0]["finish_reason"] == "stop"
        assert document["model"] == "a"
        assert document["usage"]["total_tokens"] > document["usage"]["completion_tokens"] > 0
        assert response.headers["x-request-id"]

    def test_a_stream_says_who_speaks_then_the_words_then_why_it_ends(self) -> None:
        """The role chunk comes first and alone; `[DONE]` comes last."""
        with FakeServer({"a": "hello big world"}) as server:
            text = ask(server, "a", stream=True).text
        assert deltas(text)[0] == {"role": "assistant", "content": ""}
        assert [delta.get("content") for delta in deltas(text)[1:-1]] == ["hello", " big", " world"]
        assert finishes(text) == ["stop"]
        assert frames(text)[-1] == "[DONE]"

    def test_usage_is_streamed_only_when_asked_for(self) -> None:
        """`include_usage` adds one chunk without choices; without it no chunk has usage."""
        with FakeServer({"a": "hello"}) as server:
            without = chunks(ask(server, "a", stream=True).text)
            with_usage = chunks(ask(server, "a", stream=True, stream_options={"include_usage": True}).text)
        assert not any("usage" in chunk for chunk in without)
        assert with_usage[-1]["choices"] == []
        assert with_usage[-1]["usage"]["total_tokens"] > 0

    def test_streamed_and_plain_report_the_same_usage(self) -> None:
        """Counting does not depend on how the answer travels."""
        with FakeServer({"a": Reply("hello world", reasoning="let me think")}) as server:
            plain = ask(server, "a").json()["usage"]
            streamed = chunks(ask(server, "a", stream=True, stream_options={"include_usage": True}).text)
        assert streamed[-1]["usage"] == plain
        assert plain["completion_tokens_details"]["reasoning_tokens"] > 0

    def test_reasoning_comes_before_the_text(self) -> None:
        """Thoughts are `reasoning_content`, never content."""
        with FakeServer({"a": Reply("done", reasoning="let me think")}) as server:
            plain = ask(server, "a").json()["choices"][0]["message"]
            streamed = [sorted(delta) for delta in deltas(ask(server, "a", stream=True).text)]
        assert (plain["reasoning_content"], plain["content"]) == ("let me think", "done")
        assert streamed == [
            ["content", "role"], ["reasoning_content"], ["reasoning_content"], ["content"], []
        ]  # fmt: skip

    def test_a_streamed_tool_call_names_itself_first_and_argues_later(self) -> None:
        """Id and name come once; the pieces of the arguments join to the arguments."""
        args = {"location": "San Francisco, CA", "days": 3}
        with FakeServer({"a": Reply(tool_calls=[{"name": "weather", "args": args, "id": "c1"}])}) as server:
            plain = ask(server, "a").json()["choices"][0]
            text = ask(server, "a", stream=True).text
        first, *rest = [delta["tool_calls"][0] for delta in deltas(text) if "tool_calls" in delta]
        assert (first["id"], first["function"]) == ("c1", {"name": "weather", "arguments": ""})
        assert len(rest) > 1
        assert all("id" not in part for part in rest)
        assert json.loads("".join(part["function"]["arguments"] for part in rest)) == args
        assert finishes(text) == [plain["finish_reason"]] == ["tool_calls"]
        assert json.loads(plain["message"]["tool_calls"][0]["function"]["arguments"]) == args

    @pytest.mark.parametrize(
        ("chunks_", "expected"),
        [(["a", "bc", "d"], ["a", "bc", "d"]), (2, ["one ", "two."]), (None, ["one", " two."])],
    )
    def test_a_stream_is_divided_as_told(self, chunks_: list[str] | int | None, expected: list[str]) -> None:
        """Exact pieces, a number of them, or word by word."""
        with FakeServer({"a": Reply("one two.", chunks=chunks_)}) as server:
            text = ask(server, "a", stream=True).text
        assert [delta["content"] for delta in deltas(text)[1:-1]] == expected

    def test_knobs_reach_the_answer(self) -> None:
        """Usage, model, finish and headers are as scripted."""
        reply = Reply("x", usage=(7, 5), model="gpt-4.1-2025", finish="length", headers={"X-Region": "eu"})
        with FakeServer({"a": reply}) as server:
            response = ask(server, "a")
        document = response.json()
        assert (document["usage"]["prompt_tokens"], document["usage"]["completion_tokens"]) == (7, 5)
        assert document["model"] == "gpt-4.1-2025"
        assert document["choices"][0]["finish_reason"] == "length"
        assert response.headers["X-Region"] == "eu"

    def test_delays_are_kept(self) -> None:
        """`delay_s` is silence before the first byte, `chunk_delay_s` silence between two pieces."""
        with FakeServer({"a": Reply("one two three", delay_s=0.05, chunk_delay_s=0.05)}) as server:
            began = time.monotonic()
            with httpx.stream("POST", **request_to(server, "a", stream=True)) as response:
                opened = time.monotonic()
                response.read()
        assert opened - began >= 0.05
        assert time.monotonic() - began >= 0.15

    def test_every_choice_is_answered(self) -> None:
        """`n` choices come back, streamed or not."""
        with FakeServer({"a": "hello"}) as server:
            plain = ask(server, "a", n=3).json()["choices"]
            streamed = chunks(ask(server, "a", n=3, stream=True).text)
        assert [choice["index"] for choice in plain] == [0, 1, 2]
        assert {choice["index"] for chunk in streamed for choice in chunk["choices"]} == {0, 1, 2}


REFUSALS = {
    "rate_limited": 429,
    "quota_exhausted": 429,
    "auth": 401,
    "not_found": 404,
    "context_window": 400,
    "content_policy": 400,
    "bad_request": 400,
    "server_error": 500,
    "overloaded": 503,
}


class TestFail:
    @pytest.mark.parametrize("stream", [False, True])
    @pytest.mark.parametrize("status", [400, 401, 402, 403, 404, 408, 418, 422, 429, 500, 502, 503, 504, 529])
    def test_a_status_is_sent_with_a_body_that_servers_send(self, status: int, stream: bool) -> None:
        """A request for a stream is refused like any other."""
        with FakeServer({"a": Fail(status)}) as server:
            response = ask(server, "a", stream=stream)
        assert response.status_code == status
        assert response.text

    @pytest.mark.parametrize(("word", "status"), REFUSALS.items())
    def test_a_word_is_sent_as_the_status_it_comes_as(self, word: str, status: int) -> None:
        """Each failure of the table that is a refusal has its status."""
        with FakeServer({"a": Fail(word)}) as server:
            assert ask(server, "a").status_code == status

    def test_bodies_are_told_apart_as_real_ones_are(self) -> None:
        """Quota, context window and content filter differ from their neighbours in the body alone."""
        with FakeServer({name: Fail(name) for name in REFUSALS}) as server:
            errors = {name: ask(server, name).json()["error"] for name in REFUSALS}
        assert errors["quota_exhausted"]["code"] == "insufficient_quota"
        assert "maximum context length is 256 tokens" in errors["context_window"]["message"]
        assert errors["content_policy"]["code"] == "content_filter"
        assert errors["not_found"]["message"] == "The model `not_found` does not exist."

    def test_retry_after_body_and_headers_are_as_scripted(self) -> None:
        """A mapping travels as JSON, a text as it stands; "<" makes it HTML."""
        script = [
            Fail(429, retry_after=2.5, body={"error": "slow down"}, headers={"X-Why": "busy"}),
            Fail(503, body="<html>busy</html>"),
            Fail(500, body="Internal Server Error"),
        ]
        with FakeServer({"a": script}) as server:
            json_, html, text = (ask(server, "a") for _ in range(3))
        assert (json_.headers["Retry-After"], json_.headers["X-Why"]) == ("2.5", "busy")
        assert json_.json() == {"error": "slow down"}
        assert (html.headers["Content-Type"], html.text) == ("text/html", "<html>busy</html>")
        assert (text.headers["Content-Type"], text.text) == ("text/plain", "Internal Server Error")

    @pytest.mark.parametrize("stream", [False, True])
    def test_connection_resets_before_any_byte(self, stream: bool) -> None:
        """Not even a status arrives."""
        with FakeServer({"a": Fail("connection")}) as server, pytest.raises(httpx.ReadError, match="reset"):
            ask(server, "a", stream=stream)

    @pytest.mark.parametrize(
        ("word", "pieces"), [("timeout", None), ("first_token_timeout", ""), ("idle_timeout", "The quick")]
    )
    def test_timeouts_are_silences_at_their_place(self, word: str, pieces: str | None) -> None:
        """No status, no first token, or nothing after two pieces; without streaming there is no answer."""
        with FakeServer({"a": Fail(word)}) as server:
            text, error = read_to_the_end(server, "a", stream=True)
            assert isinstance(error, httpx.ReadTimeout)
            assert (streamed_text(text) if text else None) == pieces
            assert isinstance(read_to_the_end(server, "a")[1], httpx.ReadTimeout)

    @pytest.mark.parametrize(
        ("word", "same"),
        [("empty_response", Empty()), ("invalid_response", Garbage()), ("stream_broken", Cut())],
    )
    def test_the_other_words_stand_for_other_steps(self, word: str, same: Empty | Garbage | Cut) -> None:
        """`Fail("stream_broken")` is `Cut()`, and so on."""
        with FakeServer({"a": Fail(word), "b": same}) as server:
            (a, error_a), (b, error_b) = (read_to_the_end(server, name, stream=True) for name in "ab")
        assert frames(a)[1:-1] == [frame.replace("-2", "-1").replace('"b"', '"a"') for frame in frames(b)[1:-1]]
        assert type(error_a) is type(error_b)


class TestStall:
    @pytest.mark.parametrize("after", [0, 2])
    def test_a_stream_falls_silent_after_so_many_pieces(self, after: int) -> None:
        """The role chunk does not count."""
        with FakeServer({"a": Stall(after_chunks=after)}) as server:
            text, error = read_to_the_end(server, "a", stream=True)
        assert isinstance(error, httpx.ReadTimeout)
        assert len(deltas(text)) == 1 + after

    @pytest.mark.parametrize(("keep_alive", "sign"), [("comments", ": keep-alive"), ("roles", '"role":"assistant"')])
    def test_keep_alives_go_on_in_the_silence(self, keep_alive: Any, sign: str) -> None:
        """They carry nothing, and they do not stop."""
        with FakeServer({"a": Stall(1, keep_alive=keep_alive)}) as server:
            text = ""
            with httpx.stream("POST", **request_to(server, "a", stream=True), timeout=2) as response:
                for piece in response.iter_text():
                    text += piece
                    if text.count(sign) >= 4:
                        break
        assert streamed_text(text) == "The"

    def test_any_reply_can_be_the_one_that_stalls(self) -> None:
        """Half a tool call is half a tool call."""
        call = Reply(tool_calls=[{"name": "weather", "args": {"location": "Paris"}}])
        with FakeServer({"a": Stall(2, reply=call)}) as server:
            text, _ = read_to_the_end(server, "a", stream=True)
        parts = [delta["tool_calls"][0]["function"] for delta in deltas(text)[1:]]
        assert parts[0]["name"] == "weather"
        with pytest.raises(ValueError):
            json.loads(parts[1]["arguments"])


class TestCut:
    def test_reset_is_a_tcp_reset_after_the_pieces(self) -> None:
        """What was sent arrives, then the connection breaks."""
        with FakeServer({"a": Cut(after_chunks=2)}) as server:
            text, error = read_to_the_end(server, "a", stream=True)
        assert streamed_text(text) == "The quick"
        assert isinstance(error, httpx.ReadError)

    @pytest.mark.parametrize(("how", "last"), [("close", ""), ("done", "[DONE]")])
    def test_close_and_done_end_without_a_finish_reason(self, how: Any, last: str) -> None:
        """The body ends cleanly and nothing says why."""
        with FakeServer({"a": Cut(how=how)}) as server:
            text, error = read_to_the_end(server, "a", stream=True)
        assert error is None
        assert streamed_text(text) == "The quick"
        assert finishes(text) == []
        assert (frames(text)[-1] == "[DONE]") == (last == "[DONE]")

    @pytest.mark.parametrize(("how", "code"), [("error_frame", 500), ("overload_frame", 503)])
    def test_errors_come_in_band_with_status_200(self, how: Any, code: int) -> None:
        """The error is a frame of the stream; a plain request gets the status."""
        with FakeServer({"a": Cut(how=how)}) as server:
            streamed = ask(server, "a", stream=True)
            plain = ask(server, "a")
        assert streamed.status_code == 200
        assert json.loads(frames(streamed.text)[-2])["error"]["code"] == code
        assert plain.status_code == code

    def test_a_bad_frame_is_followed_by_a_proper_end(self) -> None:
        """One frame does not parse; the words after it and the finish arrive."""
        with FakeServer({"a": Cut(how="bad_frame")}) as server:
            whole = frames(ask(server, "a", stream=True).text)
        bad = [frame for frame in whole if frame != "[DONE]" and not frame.endswith("}")]
        assert len(bad) == 1
        assert '"finish_reason":"stop"' in whole[-2]

    @pytest.mark.parametrize("how", ["abort", "error"])
    def test_vllms_own_finish_reasons_are_sent_as_they_are(self, how: Any) -> None:
        """Streamed or not."""
        with FakeServer({"a": Cut(how=how)}) as server:
            assert finishes(ask(server, "a", stream=True).text) == [how]
            assert ask(server, "a").json()["choices"][0]["finish_reason"] == how

    @pytest.mark.parametrize("how", ["close", "done", "bad_frame"])
    def test_a_plain_reply_is_cut_to_half_a_document(self, how: Any) -> None:
        """It arrives with status 200 and does not parse."""
        with FakeServer({"a": Cut(how=how)}) as server:
            response = ask(server, "a")
        assert response.status_code == 200
        with pytest.raises(ValueError):
            response.json()

    def test_a_plain_reply_is_reset_within_its_body(self) -> None:
        """The status arrives, the body does not."""
        with FakeServer({"a": Cut()}) as server, pytest.raises(httpx.ReadError):
            ask(server, "a")

    @pytest.mark.parametrize(("how", "body"), [("close", ""), ("done", "data: [DONE]\n\n")])
    def test_nothing_at_all_can_come_after_the_status(self, how: Any, body: str) -> None:
        """`after_chunks=0` sends no role either: llama.cpp's answer to a prompt that is too long."""
        with FakeServer({"a": Cut(0, how=how)}) as server:
            assert ask(server, "a", stream=True).text == body


class TestGarbage:
    @pytest.mark.parametrize("stream", [False, True])
    @pytest.mark.parametrize("kind", ["html", "no_choices", "truncated", "null", "not_json"])
    def test_no_reply_can_be_read_from_it(self, kind: Any, stream: bool) -> None:
        """The status is 200 and there is no choice anywhere."""

        def choices(document: str) -> Any:
            try:
                return (json.loads(document) or {}).get("choices", [])
            except ValueError:
                return []

        with FakeServer({"a": Garbage(kind)}) as server:
            response = ask(server, "a", stream=stream)
        assert response.status_code == 200
        assert [choices(document) for document in [response.text, *frames(response.text)] if choices(document)] == []

    def test_html_says_that_it_is(self) -> None:
        """A proxy's page, with its content type."""
        with FakeServer({"a": Garbage()}) as server:
            assert ask(server, "a").headers["Content-Type"] == "text/html"


class TestEmpty:
    @pytest.mark.parametrize(("empty", "content"), [(Empty(), ""), (Empty(content=None), None)])
    def test_it_is_a_proper_reply_that_says_nothing(self, empty: Empty, content: str | None) -> None:
        """Choices, finish and usage are there."""
        with FakeServer({"a": empty}) as server:
            choice = ask(server, "a").json()["choices"][0]
            text = ask(server, "a", stream=True).text
        assert (choice["message"]["content"], choice["finish_reason"]) == (content, "stop")
        assert deltas(text) == [{"role": "assistant", "content": ""}, {}]
        assert finishes(text) == ["stop"]

    def test_it_can_claim_another_end(self) -> None:
        """`length` without a word is what a thinking model says when its limit is small."""
        with FakeServer({"a": Empty(finish="length")}) as server:
            assert finishes(ask(server, "a", stream=True).text) == ["length"]


@pytest.fixture
def server() -> Iterator[FakeServer]:
    with FakeServer({"primary": [Fail(500), "once"], "backup": "hello", "stuck": Stall(1)}) as running:
        yield running


class TestServer:
    def test_a_list_is_played_once_and_then_the_fake_answers_sensibly(self, server: FakeServer) -> None:
        """The second use of a deployment goes on where the first stopped."""
        assert [ask(server, "primary").status_code for _ in range(3)] == [500, 200, 200]
        assert "hi" in ask(server, "primary").json()["choices"][0]["message"]["content"]

    def test_without_scripts_one_deployment_answers_sensibly(self) -> None:
        """`FakeServer()` is enough for a first test."""
        with FakeServer() as server:
            assert server.deployments == ["fake"]
            assert "hi" in ask(server, "fake").text

    def test_its_spec_is_a_chain_over_the_scripts_in_their_order(self, server: FakeServer) -> None:
        """Further keys of a deployment are merged in; settings are the chain's."""
        spec = server.spec(backend="vllm", deployments={"backup": {"weight": 2}}, on_stream_break="hold")
        assert spec["deployments"]["backup"] == {
            "backend": "vllm", "model": "backup", "api_base": server.base("backup"), "weight": 2
        }  # fmt: skip
        assert spec["chains"] == {"default": {"tiers": ["primary", "backup", "stuck"], "on_stream_break": "hold"}}

    def test_it_keeps_what_it_received(self, server: FakeServer) -> None:
        """Body, headers, deployment and whether a stream was asked for, oldest first."""
        ask(server, "backup", temperature=0.5)
        ask(server, "primary", stream=True)
        first, second = server.received()
        assert (first.deployment, first.stream, first.body["temperature"]) == ("backup", False, 0.5)
        assert first.headers["content-type"] == "application/json"
        assert (second.deployment, second.stream) == ("primary", True)
        assert first.at < second.at
        assert server.received("backup") == [first]
        server.reset()
        assert server.received() == []

    def test_requests_over_one_connection_say_so(self, server: FakeServer) -> None:
        """A client that keeps its connection is seen keeping it."""
        with httpx.Client() as client:
            for _ in range(2):
                client.post(**request_to(server, "backup"))
        ask(server, "backup")
        first, second, other = (received.connection for received in server.received())
        assert first == second != other

    def test_a_script_can_be_replaced_while_running(self, server: FakeServer) -> None:
        """One step lasts for ever, several are played once."""
        server.script("backup", Fail(503))
        assert [ask(server, "backup").status_code for _ in range(2)] == [503, 503]
        server.script("backup", Fail(503), "fine")
        assert [ask(server, "backup").status_code for _ in range(2)] == [503, 200]

    def test_an_unknown_deployment_is_refused_as_vllm_refuses(self, server: FakeServer) -> None:
        """A request for it is 404; a test that names it gets a ValueError with the names there are."""
        response = httpx.post(f"{server.url}/nope/v1/chat/completions", json={"messages": []})
        assert response.status_code == 404
        assert response.json()["error"]["message"] == "The model `nope` does not exist."
        with pytest.raises(
            ValueError, match="no fake deployment is called 'nope'; there are 'primary', 'backup', 'stuck'"
        ):
            server.received("nope")

    def test_without_a_path_the_model_names_the_deployment(self, server: FakeServer) -> None:
        """One base URL may serve them all."""
        body = {"model": "backup", "messages": [{"role": "user", "content": "hi"}]}
        assert "hello" in httpx.post(f"{server.url}/v1/chat/completions", json=body).text

    def test_models_and_health_answer(self, server: FakeServer) -> None:
        """What serving systems offer to look at."""
        rows = httpx.get(f"{server.base('backup')}/v1/models").json()["data"]
        assert [row["id"] for row in rows] == ["backup"]
        assert httpx.get(f"{server.base('backup')}/health").status_code == 200
        assert httpx.get(f"{server.url}/nope/health").status_code == 404
        assert httpx.get(f"{server.url}/nope/v1/models").status_code == 404
        assert httpx.get(f"{server.url}/elsewhere").status_code == 404

    def test_a_request_without_messages_is_refused(self, server: FakeServer) -> None:
        """As is a body that is no JSON; the script is not played for it."""
        url = f"{server.base('primary')}/v1/chat/completions"
        assert httpx.post(url, json={}).status_code == 400
        assert httpx.post(url, content=b"{").status_code == 400
        assert ask(server, "primary").status_code == 500

    def test_large_requests_are_taken(self, server: FakeServer) -> None:
        """An image of some megabytes is an ordinary request."""
        assert ask(server, "backup", padding="x" * 3_000_000).status_code == 200

    def test_names_need_not_be_plain(self) -> None:
        """A deployment may be called like a model, slash and all."""
        with FakeServer({"openai/gpt 4": "hello"}) as server:
            assert ask(server, "openai/gpt 4").status_code == 200

    def test_fifty_at_once_get_one_step_each(self) -> None:
        """A list is played exactly once, whoever asks."""
        answers = [f"answer {number}" for number in range(50)]

        async def all_at_once(server: FakeServer) -> list[str]:
            async with httpx.AsyncClient(limits=httpx.Limits(max_connections=50)) as client:
                replies = await asyncio.gather(*(client.post(**request_to(server, "a")) for _ in answers))
            return [reply.json()["choices"][0]["message"]["content"] for reply in replies]

        with FakeServer({"a": answers}) as server:
            assert sorted(asyncio.run(all_at_once(server))) == sorted(answers)
            assert len({received.connection for received in server.received()}) > 1


class TestLeaving:
    def test_a_client_that_leaves_in_the_middle_is_noticed(self, server: FakeServer) -> None:
        """`client_gone_at` is set; for those who stayed it is None."""
        ask(server, "backup", stream=True)
        with httpx.stream("POST", **request_to(server, "stuck", stream=True)) as response:
            pieces = response.iter_text()
            assert next(pieces)
            assert server.received("stuck")[0].under_way
        server.wait_until(lambda: server.received("stuck")[0].client_gone_at)
        assert server.received("backup")[0].client_gone_at is None

    def test_a_client_that_leaves_before_an_answer_is_noticed(self, server: FakeServer) -> None:
        """Also where nothing was sent yet."""
        server.script("stuck", Fail("timeout"))
        assert isinstance(read_to_the_end(server, "stuck")[1], httpx.ReadTimeout)
        server.wait_until(lambda: server.received("stuck")[0].client_gone_at)

    def test_a_client_that_leaves_after_done_left_nothing(self, server: FakeServer) -> None:
        """Closing the connection after the answer is no leaving."""
        for _ in range(20):
            ask(server, "backup", stream=True)
        server.wait_idle()
        assert not any(received.client_gone_at for received in server.received())

    def test_a_cut_of_ours_is_no_leaving_of_theirs(self) -> None:
        """The server that resets knows who did it."""
        with FakeServer({"a": Cut()}) as server:
            read_to_the_end(server, "a", stream=True)
            server.wait_idle()
            assert server.received()[0].client_gone_at is None

    def test_waiting_for_what_does_not_come_says_what_came(self, server: FakeServer) -> None:
        """The TimeoutError lists the requests."""
        ask(server, "backup")
        with pytest.raises(TimeoutError, match="deployment='backup'"):
            server.wait_until(lambda: len(server.received()) == 2, timeout_s=0.01)


def threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "FakeServer"]


class TestClosing:
    @pytest.mark.parametrize("step", [Stall(), Stall(keep_alive="comments"), Reply(delay_s=10_000)])
    def test_closing_does_not_wait_for_what_is_stalled(self, step: Stall | Reply) -> None:
        """Whoever still reads sees the connection end; no thread is left; nobody is said to have left."""
        outcome: list[tuple[str, Exception | None]] = []
        with FakeServer({"a": step}) as server:
            reader = threading.Thread(target=lambda: outcome.append(_read_patiently(server)))
            reader.start()
            server.wait_until(server.received)
            began = time.monotonic()
        assert time.monotonic() - began < 1
        reader.join(5)
        assert isinstance(outcome[0][1], httpx.HTTPError)
        assert server.received()[0].client_gone_at is None
        assert threads() == []

    def test_a_closed_server_is_gone_and_can_be_started_again(self) -> None:
        """It refuses connections until then, and goes on in its script."""
        server = FakeServer({"a": ["one", "two"]})
        with server:
            url = server.url
            assert "one" in ask(server, "a").text
        with pytest.raises(httpx.ConnectError):
            httpx.get(f"{url}/health")
        with pytest.raises(RuntimeError, match="not running"):
            _ = server.url
        server.close()
        with server:
            assert "two" in ask(server, "a").text

    def test_starting_twice_is_a_mistake(self, server: FakeServer) -> None:
        """Two threads for one server would leave one behind."""
        with pytest.raises(RuntimeError, match="running already"):
            server.start()

    def test_many_servers_leave_nothing(self) -> None:
        """Twenty at once, dropped with idle connections open."""
        servers = [FakeServer().start() for _ in range(20)]
        with httpx.Client() as client:
            for server in servers:
                client.get(f"{server.url}/health")
            for server in servers:
                server.close()
        assert threads() == []


def _read_patiently(server: FakeServer) -> tuple[str, Exception | None]:
    try:
        return ask(server, "a", stream=True).text, None
    except httpx.HTTPError as error:
        return "", error


class TestAsync:
    @pytest.fixture
    async def client(self) -> AsyncIterator[httpx.AsyncClient]:
        async with httpx.AsyncClient(timeout=5) as client:
            yield client

    async def test_it_is_an_async_context_manager(self, client: httpx.AsyncClient) -> None:
        """The caller's loop runs on while it starts, serves and closes."""
        async with FakeServer({"a": "hello"}) as server:
            response = await client.post(**request_to(server, "a"))
        assert "hello" in response.text
        assert threads() == []

    async def test_a_task_that_is_cancelled_is_seen_leaving(self, client: httpx.AsyncClient) -> None:
        """Cancelling closes the request at once."""
        async with FakeServer({"a": Stall(1)}) as server:
            task = asyncio.create_task(client.post(**request_to(server, "a", stream=True)))
            await server.await_until(server.received)
            task.cancel()
            await server.await_until(lambda: server.received()[0].client_gone_at)

    async def test_closing_ends_a_stalled_stream(self, client: httpx.AsyncClient) -> None:
        """In async code too."""
        async with FakeServer({"a": Stall(1)}) as server:
            task = asyncio.create_task(client.post(**request_to(server, "a", stream=True)))
            await server.await_until(server.received)
        with pytest.raises(httpx.HTTPError):
            await task
