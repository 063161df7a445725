"""FallbackChatModel as LangChain meets it: building, choosing chains, telling, cancelling, sharing, letting go."""

from __future__ import annotations

import asyncio
import copy
import gc
import json
import pickle
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import litellm
import pytest
from langchain_core import exceptions as langchain
from langchain_core.callbacks import AsyncCallbackHandler, BaseCallbackHandler, UsageMetadataCallbackHandler
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.runnables import ConfigurableField
from langchain_litellm import ChatLiteLLMRouter
from pydantic import BaseModel

from llm_fallback import (
    AttemptFailed,
    CallEnded,
    ChainExhausted,
    FallbackChatModel,
    FellBack,
    SpecError,
    StreamBroken,
    build_chat_model,
    build_router,
)
from llm_fallback.testing import Cut, Fail, FakeServer, Reply, Stall, assert_attempts
from tests.asking import MODES, STREAMED, ask, merged


def two_chains(server: FakeServer) -> dict:
    """`good` asks a, `cheap` asks b."""
    spec = server.spec()
    spec["chains"] = {"good": {"tiers": ["a"]}, "cheap": {"tiers": ["b"]}}
    spec["default_chain"] = "good"
    return spec


class TestBuilding:
    def test_a_model_is_a_chat_litellm_router_built_by_function_or_constructor(self):
        """Both ways make the same model, and code that asks for ChatLiteLLMRouter takes it."""
        with FakeServer({"a": "hi"}) as server:
            for model in (build_chat_model(server.spec()), FallbackChatModel(spec=server.spec())):
                assert isinstance(model, ChatLiteLLMRouter)
                assert model.invoke("x").content == "hi"

    def test_langchains_words_set_our_limits(self):
        """`timeout` is total_s and `max_retries` is retries.max."""
        with FakeServer({"a": "hi"}) as server:
            model = build_chat_model(server.spec(), timeout=7, max_retries=0)
            assert model.explain()["max_seconds"] == 7
            assert model.explain()["max_requests"] == 1

    def test_an_unknown_word_is_refused_with_the_nearest(self):
        """A typo at build does not reach a provider, and all typos are told at once."""
        with FakeServer({"a": "hi"}) as server, pytest.raises(SpecError) as caught:
            build_chat_model(server.spec(), temprature=0, timeoutt=3)
        assert "temperature" in str(caught.value)
        assert "timeout" in str(caught.value)

    @pytest.mark.parametrize(
        "word",
        [
            "api_key",
            "api_base",
            "base_url",
            "organization",
            "custom_llm_provider",
            "extra_headers",
            "fallbacks",
            "num_retries",
            "mock_response",
        ],
    )
    def test_words_that_would_reach_every_provider_are_refused_at_build_and_per_call(self, word):
        """One provider's key or address must not travel to the next."""
        with FakeServer({"a": "hi"}) as server:
            with pytest.raises(SpecError, match=word):
                build_chat_model(server.spec(), **{word: "x"})
            with pytest.raises(ValueError, match=word):
                build_chat_model(server.spec()).invoke("x", **{word: "x"})
            with pytest.raises(ValueError, match=word):
                list(build_chat_model(server.spec()).bind(**{word: "x"}).stream("x"))
            assert server.received() == []

    @pytest.mark.parametrize("setting", [{"timeouts": {"total_s": 1}}, {"on_stream_break": "hold"}, {"retries": {}}])
    def test_a_chains_settings_are_no_words_of_a_call(self, setting):
        """They would go to the server and have no effect, and whoever wrote them would rely on it."""
        with FakeServer({"a": "hi"}) as server:
            model = build_chat_model(server.spec())
            for asked in (model, model.bind(**setting)):
                with pytest.raises(SpecError, match=f"{next(iter(setting))}: .*build_chat_model"):
                    asked.invoke("x", **({} if asked is not model else setting))
            assert server.received() == []

    @pytest.mark.parametrize("address", ["${LLM_TEST_URL}", "${LLM_TEST_NOWHERE:-}", "http${LLM_TEST_URL}"])
    @pytest.mark.parametrize("backend", ["vllm", "openai-compatible", None])
    def test_an_address_that_comes_to_none_is_refused(self, address, backend, monkeypatch):
        """litellm would send the prompt to the provider's own address instead."""
        monkeypatch.setenv("LLM_TEST_URL", "")
        own = {"model": "openai/m" if backend is None else "m", "backend": backend, "api_base": address}
        spec = {"deployments": {"own": own}, "chains": {"c": {"tiers": ["own"]}}}
        for build in (build_chat_model, build_router):
            with pytest.raises(SpecError, match=r"deployments\.own\.api_base: .* comes to"):
                build(spec)

    @pytest.mark.parametrize("path", ["os:sep", "os:nonesuch", "nowhere.at_all:good"])
    def test_an_accept_that_is_no_function_is_refused_where_it_is_built(self, path):
        """Else every call would find out, once it has been paid for."""
        with FakeServer({"a": "hi"}) as server, pytest.raises(SpecError, match=r"accept: .*package\.module:function"):
            build_chat_model(server.spec(), accept=path)

    @pytest.mark.parametrize("build", [build_chat_model, build_router])
    def test_a_spec_without_a_chain_says_so(self, build):
        """`check` loads it, as a part of a spec to be laid over others."""
        with pytest.raises(SpecError, match="chains: there is none"):
            build({"deployments": {"own": {"model": "openai/m"}}})

    @pytest.mark.parametrize("mode", ["invoke", "ainvoke"])
    async def test_a_model_that_is_to_stream_does_where_a_whole_reply_is_asked_for(self, mode):
        """LangChain's word for it; the reply comes whole all the same."""
        with FakeServer({"a": Reply("one two three", chunks=3)}) as server:
            model = build_chat_model(server.spec(), streaming=True)
            reply = await ask(model, mode)
            assert server.received("a")[0].body["stream"] is True
        assert reply.content == "one two three"

    @pytest.mark.parametrize("mode", MODES)
    async def test_one_call_may_have_repeats_of_its_own(self, mode):
        """`max_retries`, LangChain's word, for this call alone."""
        with FakeServer({"a": Fail(500)}) as server:
            model = build_chat_model(server.spec(retries={"max": 2, "wait_initial_s": 0.01}))
            with pytest.raises(ChainExhausted):
                await ask(model.bind(max_retries=0), mode)
            assert len(server.received()) == 1

    def test_a_later_word_wins(self):
        """A deployment's params, then build, then bind, then the call."""
        with FakeServer({"a": "hi"}) as server:
            own = {"a": {"params": {"temperature": 0.1, "top_p": 0.1, "seed": 1, "max_tokens": 1}}}
            model = build_chat_model(server.spec(deployments=own), top_p=0.2, seed=2, max_tokens=2)
            model.bind(seed=3, max_tokens=3).invoke("x", max_tokens=4)
            sent = server.received("a")[0].body
        assert (sent["temperature"], sent["top_p"], sent["seed"], sent["max_tokens"]) == (0.1, 0.2, 3, 4)

    def test_all_unset_variables_are_told_at_once(self):
        """Building names each variable; nothing is sent."""
        spec = {
            "deployments": {
                "a": {"model": "openai/gpt-4.1", "api_key": "${UNSET_ONE}"},
                "b": {"model": "openai/gpt-4.1", "api_key": "${UNSET_TWO:?get one from the wiki}"},
            },
            "chains": {"c": {"tiers": ["a", "b"]}},
        }
        with pytest.raises(SpecError) as caught:
            build_chat_model(spec)
        assert "UNSET_ONE" in str(caught.value)
        assert "get one from the wiki" in str(caught.value)

    def test_sampling_a_model_does_not_take_is_dropped_for_it_and_named(self):
        """litellm objects in stages; all it objects to goes, nothing else does, and nothing is sent in between."""
        with FakeServer({"a": "hi"}) as server:
            own = {"model": "openai/gpt-5", "api_key": "k", "api_base": server.base("a") + "/v1"}
            model = build_chat_model({"deployments": {"a": own}, "chains": {"c": {"tiers": ["a"]}}})
            message = model.invoke("x", stop=["y"], temperature=0, n=1)
            [sent] = server.received("a")
        attempt = message.response_metadata["llm_fallback"]["attempts"][0]
        assert attempt["dropped_params"] == ["stop", "temperature"]
        assert set(sent.body) == {"model", "messages", "n"}

    def test_a_list_of_models_is_a_chain(self, monkeypatch):
        """One line makes a chain that asks them in order."""
        monkeypatch.setenv("OPENAI_API_KEY", "x")
        monkeypatch.setenv("ANTHROPIC_API_KEY", "x")
        model = build_chat_model(["anthropic/claude-sonnet-4-5", "openai:gpt-4.1"], timeout=20)
        assert [len(tier) for tier in model.explain()["tiers"]] == [1, 1]
        assert model.explain()["max_seconds"] == 20

    def test_a_server_of_ones_own_never_gets_a_borrowed_key(self, monkeypatch):
        """With a backend and no key nothing is sent as one, whatever the environment holds."""
        for name in ("OPENAI_API_KEY", "HOSTED_VLLM_API_KEY", "LITELLM_PROXY_API_KEY"):
            monkeypatch.setenv(name, "sk-borrowed")
        for backend in ("vllm", "openai-compatible", "ray-serve", "litellm-proxy", "tensorrt-llm", "openllm"):
            with FakeServer({"a": "hi"}) as server:
                build_chat_model(server.spec(backend=backend)).invoke("x")
                assert "authorization" not in server.received("a")[0].headers

    def test_a_provider_with_an_address_of_ones_own_gets_no_borrowed_key(self, monkeypatch):
        """`openai/` with an api_base would get OPENAI_API_KEY from litellm."""
        monkeypatch.setenv("OPENAI_API_KEY", "sk-borrowed")
        with FakeServer({"a": "hi"}) as server:
            own = {"model": "openai/m", "api_base": server.base("a") + "/v1"}
            build_chat_model({"deployments": {"a": own}, "chains": {"c": {"tiers": ["a"]}}}).invoke("x")
            assert "sk-borrowed" not in json.dumps(dict(server.received("a")[0].headers))


class TestChoosingAChain:
    @pytest.mark.parametrize("mode", MODES)
    async def test_a_call_names_its_chain_in_any_of_langchains_ways(self, mode):
        """chain=, model=, bind, configurable and with_chain all ask the other chain of the same spec."""
        with FakeServer({"a": "from a", "b": "from b"}) as server:
            model = build_chat_model(two_chains(server))
            assert (await ask(model, mode)).content == "from a"
            assert (await ask(model, mode, chain="cheap")).content == "from b"
            assert (await ask(model, mode, model="cheap")).content == "from b"
            assert (await ask(model.bind(chain="cheap"), mode)).content == "from b"
            assert (await ask(model.with_config(configurable={"chain": "cheap"}), mode)).content == "from b"
            assert (await ask(model.with_chain("cheap"), mode)).content == "from b"

    def test_a_chain_that_is_none_is_refused_with_the_nearest(self):
        """A wrong name is a ValueError before anything is sent."""
        with FakeServer({"a": "x", "b": "y"}) as server:
            model = build_chat_model(two_chains(server))
            with pytest.raises(ValueError, match="cheap"):
                model.invoke("x", chain="chaep")
            with pytest.raises(ValueError, match="cheap"):
                model.with_chain("chaep")
            assert server.received() == []

    def test_the_state_is_shared_by_everything_derived(self):
        """A breaker opened through one copy is open for all of them."""
        with FakeServer({"a": Fail(500), "b": "fine"}) as server:
            model = build_chat_model(server.spec(retries={"max": 0}))
            others = [model.bind_tools([]), model.model_copy(), copy.copy(model), copy.deepcopy(model)]
            for other in others[:3]:
                other.invoke("x")
            assert model.state()["a"]["breaker"] == "open"
            others[3].invoke("x")
            assert len(server.received("a")) == 3

    def test_configurable_fields_keep_the_state(self):
        """LangChain rebuilds a model by its constructor for them; breakers must survive that."""
        with FakeServer({"a": Fail(500), "b": "fine"}) as server:
            model = build_chat_model(server.spec())
            warm = model.configurable_fields(temperature=ConfigurableField(id="temperature"))
            for _ in range(4):
                warm.with_config(configurable={"temperature": 0.5}).invoke("x")
            assert len(server.received("a")) == 3
            assert server.received("b")[0].body["temperature"] == 0.5


class Heard(BaseCallbackHandler):
    def __init__(self):
        self.custom, self.ended, self.errors, self.tokens, self.models = [], 0, [], [], []

    def on_custom_event(self, name, data, *, run_id, **kwargs):
        self.custom.append((name, data, run_id))

    def on_llm_end(self, response, **kwargs):
        self.ended += 1

    def on_llm_error(self, error, **kwargs):
        self.errors.append(error)

    def on_llm_new_token(self, token, **kwargs):
        self.tokens.append(token)


class TestTelling:
    @pytest.mark.parametrize("mode", MODES)
    async def test_failed_attempts_and_fallbacks_are_custom_events_of_the_run(self, mode):
        """Handlers of the config hear both, in order, with plain data."""
        heard = Heard()
        with FakeServer({"a": Fail(429), "b": "fine"}) as server:
            await ask(build_chat_model(server.spec()), mode, config={"callbacks": [heard]})
        assert [name for name, _, _ in heard.custom] == ["llm_fallback.attempt_failed", "llm_fallback.fell_back"]
        assert heard.custom[0][1]["failure"] == "rate_limited"
        assert heard.custom[1][1] == {"chain": "default", "from": "a", "to": "b", "failure": "rate_limited"}
        json.dumps([data for _, data, _ in heard.custom])

    async def test_astream_events_shows_them_in_lcel(self):
        """Inside a chain of runnables they reach astream_events like any custom event."""
        with FakeServer({"a": Fail(500), "b": "fine"}) as server:
            chain = ChatPromptTemplate.from_template("{x}") | build_chat_model(server.spec()) | StrOutputParser()
            events = [event async for event in chain.astream_events({"x": "hi"}, version="v2")]
        names = [event["name"] for event in events if event["event"] == "on_custom_event"]
        assert names == ["llm_fallback.attempt_failed", "llm_fallback.fell_back"]

    @pytest.mark.parametrize("mode", MODES)
    async def test_listeners_hear_events_in_the_callers_thread(self, mode):
        """A listener hears what failed, who came next and how it ended; its own errors harm nobody."""
        heard: list[tuple[object, threading.Thread]] = []

        def listen(event):
            heard.append((event, threading.current_thread()))
            raise RuntimeError("a listener's own problem")

        with FakeServer({"a": Fail(500), "b": "fine"}) as server:
            await ask(build_chat_model(server.spec(), listeners=[listen]), mode)
        assert [type(event) for event, _ in heard] == [AttemptFailed, FellBack, CallEnded]
        assert not any("portal" in thread.name for _, thread in heard)

    @pytest.mark.parametrize("mode", MODES)
    async def test_usage_is_booked_to_the_model_that_answered(self, mode):
        """LangChain's own usage handler sees the backup's name, on exactly one chunk."""
        usage = UsageMetadataCallbackHandler()
        with FakeServer({"a": Fail(500), "b": Reply("fine", usage=(11, 5))}) as server:
            model = build_chat_model(server.spec())
            await ask(model, mode, config={"callbacks": [usage]})
            await ask(model, mode, config={"callbacks": [usage]})
        assert list(usage.usage_metadata) == ["b"]
        assert usage.usage_metadata["b"]["total_tokens"] == 32

    @pytest.mark.parametrize("mode", STREAMED)
    async def test_exactly_the_last_chunk_of_a_stream_carries_the_facts(self, mode):
        """Metadata and name stand on the last chunk alone, and merge into one message."""
        with FakeServer({"a": "one two three"}) as server:
            model = build_chat_model(server.spec())
            chunks = list(model.stream("x")) if mode == "stream" else [c async for c in model.astream("x")]
        assert ["llm_fallback" in chunk.response_metadata for chunk in chunks] == [False] * (len(chunks) - 1) + [True]
        assert sum("model_name" in chunk.response_metadata for chunk in chunks) == 1
        assert chunks[-1].chunk_position == "last"
        assert merged(chunks).content == "one two three"
        json.dumps(merged(chunks).response_metadata["llm_fallback"])

    def test_plain_and_streamed_report_the_same(self):
        """Tokens, cost and attempts do not depend on how the answer was asked for."""
        price = {"price": {"input_per_million": 2, "output_per_million": 4}}
        with FakeServer({"a": Reply("fine", usage=(1000, 500))}) as server:
            model = build_chat_model(server.spec(deployments={"a": price}))
            plain, streamed = model.invoke("x"), merged(list(model.stream("x")))
        assert plain.usage_metadata == streamed.usage_metadata
        for message in (plain, streamed):
            assert message.response_metadata["llm_fallback"]["cost_usd"] == pytest.approx(0.004)
            assert message.response_metadata["model_name"] == "a"
            assert "response_cost" not in message.response_metadata
        assert plain.response_metadata["llm_fallback"]["time_to_first_token_s"] is None
        assert streamed.response_metadata["llm_fallback"]["time_to_first_token_s"] > 0

    def test_the_log_tells_fallbacks_at_info_and_what_needs_hands_at_warning(self, caplog):
        """Fallback INFO; auth and opened breakers WARNING; attempts DEBUG."""
        caplog.set_level("DEBUG", "llm_fallback")
        with FakeServer({"a": Fail("auth"), "b": "fine"}) as server:
            build_chat_model(server.spec()).invoke("x")
        levels = {record.levelname for record in caplog.records if "auth" in record.getMessage()}
        assert levels == {"WARNING", "INFO"}
        assert any(record.levelname == "INFO" and "fell back" in record.getMessage() for record in caplog.records)


class TestFailing:
    @pytest.mark.parametrize("mode", MODES)
    @pytest.mark.parametrize(
        ("script", "kind"),
        [
            (Fail(429), langchain.ModelRateLimitError),
            (Fail("quota_exhausted"), langchain.ModelRateLimitError),
            (Fail(401), langchain.ModelAuthenticationError),
            (Fail(403), langchain.ModelPermissionDeniedError),
            (Fail("not_found"), langchain.ModelNotFoundError),
            (Fail("bad_request"), langchain.ModelInvalidRequestError),
            (Fail("content_policy"), langchain.ModelInvalidRequestError),
            (Fail("context_window"), langchain.ContextOverflowError),
            (Fail(500), langchain.ModelAPIError),
            (Fail("connection"), langchain.ModelConnectionError),
        ],
    )
    async def test_an_exhausted_chain_raises_langchains_own_class_too(self, script, kind, mode):
        """With attempts, a readable text, not retryable, and it pickles."""
        with FakeServer({"a": script}) as server, pytest.raises(ChainExhausted) as caught:
            await ask(build_chat_model(server.spec(retries={"max": 0})), mode)
        error = caught.value
        assert isinstance(error, kind)
        assert error.is_retryable is False
        assert_attempts(error, f"a: {error.failure}")
        assert f"a: {error.failure}" in str(error)
        again = pickle.loads(pickle.dumps(error))
        assert (type(again), str(again), again.attempts) == (type(error), str(error), error.attempts)
        assert error.__cause__ is not None
        assert error.__cause__.__traceback__ is None

    @pytest.mark.parametrize("mode", STREAMED)
    async def test_a_stream_that_breaks_raises_with_what_was_delivered(self, mode):
        """`raise`: nothing is delivered twice, and nobody else is asked."""
        got = []
        with FakeServer({"a": Cut(after_chunks=2), "b": "fine"}) as server, pytest.raises(StreamBroken) as caught:
            model = build_chat_model(server.spec())
            if mode == "stream":
                for chunk in model.stream("x"):
                    got.append(chunk.content)
            else:
                async for chunk in model.astream("x"):
                    got.append(chunk.content)
        assert "".join(got) == caught.value.partial.content == "The quick"
        assert isinstance(caught.value, langchain.ModelConnectionError)
        assert server.received("b") == []
        assert pickle.loads(pickle.dumps(caught.value)).partial.content == "The quick"

    @pytest.mark.parametrize("mode", STREAMED)
    async def test_a_held_stream_falls_back_wherever_it_breaks(self, mode):
        """`hold`: the answer is the backup's, whole, and nothing of the broken one was seen."""
        with FakeServer({"a": Cut(after_chunks=2), "b": "fine and whole"}) as server:
            message = await ask(build_chat_model(server.spec(on_stream_break="hold")), mode)
        assert message.content == "fine and whole"
        assert_attempts(message, "a: stream_broken", "b: succeeded")

    @pytest.mark.parametrize("mode", MODES)
    async def test_a_reply_that_accept_rejects_is_a_failure(self, mode):
        """The next deployment is asked with the same request; a predicate may ask a model itself."""
        with FakeServer({"a": "bad answer", "b": "good answer", "judge": "no"}) as server:
            spec = server.spec()
            spec["chains"] = {"main": {"tiers": ["a", "b"]}, "judge": {"tiers": ["judge"]}}
            spec["default_chain"] = "main"
            judge = build_chat_model(spec, chain="judge")

            def accept(message):
                return judge.invoke(message.content).content == "no" and "good" in message.content

            message = await ask(build_chat_model(spec, accept=accept), mode)
            bodies = [server.received(name)[0].body["messages"] for name in ("a", "b")]
        assert message.content == "good answer"
        assert_attempts(message, "a: rejected", "b: succeeded")
        assert bodies[0] == bodies[1]

    @pytest.mark.parametrize("mode", MODES)
    async def test_structured_output_that_does_not_parse_falls_back(self, mode):
        """A reply that is no JSON of the schema is as useless as an error."""

        class Answer(BaseModel):
            number: int

        with FakeServer({"a": "sorry, I cannot", "b": '{"number": 7}'}) as server:
            model = build_chat_model(server.spec()).with_structured_output(Answer)
            if mode in STREAMED:
                parts = list(model.stream("x")) if mode == "stream" else [p async for p in model.astream("x")]
                answer = parts[-1]
            else:
                answer = await ask(model, mode)
            assert len(server.received("a")) == 1
        assert answer == Answer(number=7)


class TestRoutesAside:
    async def test_a_prompt_too_long_goes_to_on_context_window(self):
        """Its tiers are asked and no other; with [] it is raised at once."""
        with FakeServer({"a": Fail("context_window"), "b": "small", "long": "long enough"}) as server:
            spec = server.spec()
            spec["chains"]["default"] |= {"tiers": ["a", "b"], "on_context_window": ["long"]}
            assert build_chat_model(spec).invoke("x").content == "long enough"
            spec["chains"]["default"]["on_context_window"] = []
            with pytest.raises(langchain.ContextOverflowError):
                build_chat_model(spec).invoke("x")
            assert server.received("b") == []

    async def test_a_refusal_goes_to_on_content_policy_or_the_next_tier(self):
        """Members of the tier that refused are not asked."""
        with FakeServer({"a": Fail("content_policy"), "b": "same tier", "c": "next tier", "p": "policy"}) as server:
            spec = server.spec(deployments={"a": {"weight": 1e9}})
            spec["chains"]["default"] |= {"tiers": [["a", "b"], "c"]}
            assert build_chat_model(spec).invoke("x").content == "next tier"
            spec["chains"]["default"]["on_content_policy"] = ["p"]
            assert build_chat_model(spec).invoke("x").content == "policy"

    async def test_a_bad_request_is_not_repeated_at_the_same_model(self):
        """A deployment that serves the same base_model would refuse it too."""
        with FakeServer({"a": Fail("bad_request"), "b": "same model", "c": "other"}) as server:
            spec = server.spec(deployments={"a": {"base_model": "m"}, "b": {"base_model": "m"}})
            assert build_chat_model(spec).invoke("x").content == "other"
            assert server.received("b") == []


class TestLeaving:
    def test_leaving_a_stream_early_closes_the_request_and_counts_no_failure(self):
        """The server sees its client go; the breaker counts nothing; nothing is in flight."""
        ended = []
        with FakeServer({"a": Reply("word " * 500, chunk_delay_s=0.02)}) as server:
            with build_chat_model(server.spec(), listeners=[ended.append]) as model:
                for _ in model.stream("x"):
                    break
                server.wait_until(lambda: server.received("a")[0].client_gone_at is not None)
                assert model.state()["a"]["failures"] == 0
                assert model.state()["a"]["in_flight"] == 0
        assert [event.failure for event in ended] == ["cancelled"]

    async def test_cancelling_closes_the_request_and_counts_no_failure(self):
        """In ainvoke and astream alike."""
        for mode in ("ainvoke", "astream"):
            with FakeServer({"a": Stall(after_chunks=1)}) as server:
                async with build_chat_model(server.spec()) as model:
                    task = asyncio.create_task(ask(model, mode))
                    await server.await_until(lambda server=server: server.received("a"))
                    await asyncio.sleep(0.05)
                    task.cancel()
                    with pytest.raises(asyncio.CancelledError):
                        await task
                    await server.await_until(lambda server=server: server.received("a")[0].client_gone_at is not None)
                    assert model.state()["a"]["failures"] == 0
                    assert model.state()["a"]["in_flight"] == 0

    async def test_closing_a_stream_closes_its_request_at_once(self):
        """aclose() has dropped the request when it returns; nothing waits for the garbage collector."""
        ended = []
        with FakeServer({"a": Reply("word " * 500, chunk_delay_s=0.02)}) as server:
            async with build_chat_model(server.spec(), listeners=[ended.append]) as model:
                stream = model.astream("x")
                await anext(stream)
                await stream.aclose()
                assert model.state()["a"]["in_flight"] == 0
                assert [event.failure for event in ended] == ["cancelled"]


class TestSyncAnywhere:
    async def test_sync_calls_work_inside_a_running_loop(self):
        """As in a notebook, or in sync code that async code calls."""
        with FakeServer({"a": "hi"}) as server:
            model = build_chat_model(server.spec())
            assert model.invoke("x").content == "hi"
            assert merged(list(model.stream("x"))).content == "hi"

    def test_sync_calls_work_from_32_threads(self):
        """All at once, each with its own answer."""
        with FakeServer({"a": None}) as server, build_chat_model(server.spec()) as model:
            with ThreadPoolExecutor(32) as pool:
                answers = list(pool.map(lambda i: model.invoke(f"say {i}").content, range(96)))
            assert len(server.received("a")) == 96
        assert len(answers) == 96

    @pytest.mark.slow
    def test_sync_calls_work_after_a_fork(self):
        """A child makes a loop and connections of its own."""
        program = """
import os
from llm_fallback import build_chat_model
from llm_fallback.testing import FakeServer
with FakeServer({"a": "hi"}) as server:
    model = build_chat_model(server.spec())
    assert model.invoke("x").content == "hi"
    child = os.fork()
    if not child:
        os._exit(0 if model.invoke("x").content == "hi" else 1)
    assert os.waitpid(child, 0)[1] == 0
    assert model.invoke("x").content == "hi"
    print("both answered", len(server.received("a")))
"""
        ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
        assert "both answered 3" in ran.stdout, ran.stderr

    @pytest.mark.slow
    def test_calls_wrapped_in_asyncio_run_leave_nothing_behind(self):
        """No unclosed session, no destroyed task, and a second loop works like the first."""
        program = """
import asyncio, gc, logging
logging.basicConfig(level="DEBUG" if 0 else "WARNING")
from llm_fallback import build_chat_model
from llm_fallback.testing import FakeServer
with FakeServer({"a": "hi"}) as server:
    model = build_chat_model(server.spec())
    for _ in range(3):
        print(asyncio.run(model.ainvoke("x")).content)
    print(model.invoke("x").content)
    del model
    gc.collect()
"""
        ran = subprocess.run([sys.executable, "-X", "dev", "-c", program], capture_output=True, text=True, timeout=60)
        assert ran.stdout.split() == ["hi"] * 4, ran.stderr
        assert "Unclosed" not in ran.stderr
        assert "destroyed" not in ran.stderr

    async def test_a_slow_handler_delays_only_its_own_call(self):
        """Handlers run at the caller's, not on the shared loop."""

        class Slow(BaseCallbackHandler):
            def on_custom_event(self, *args, **kwargs):
                time.sleep(1.0)

        with (
            FakeServer({"a": Fail(500), "b": "fine"}) as server,
            build_chat_model(server.spec()) as model,
        ):
            model.invoke("warm")
            slow = threading.Thread(target=lambda: model.invoke("x", config={"callbacks": [Slow()]}))
            slow.start()
            began = time.monotonic()
            model.invoke("x")
            quick = time.monotonic() - began
            slow.join()
        assert quick < 0.8

    async def test_a_handler_that_asks_the_model_itself_does_not_deadlock(self):
        """In sync and in async, also when it is the same model."""
        with FakeServer({"a": Fail(500), "b": "fine"}) as server:
            model = build_chat_model(server.spec())

            class Asking(BaseCallbackHandler):
                def on_custom_event(self, name, data, **kwargs):
                    answers.append(model.invoke("and you?", config={"callbacks": []}).content)

            class AskingAsync(AsyncCallbackHandler):
                async def on_custom_event(self, name, data, **kwargs):
                    answers.append((await model.ainvoke("and you?", config={"callbacks": []})).content)

            answers: list[str] = []
            model.invoke("x", config={"callbacks": [Asking()]})
            await model.ainvoke("x", config={"callbacks": [AskingAsync()]})
        assert set(answers) == {"fine"}


class TestLettingGo:
    def test_a_thousand_models_leave_litellm_as_it_was(self):
        """Callback lists and prices are untouched, and the next model still breaks its circuit."""
        lists = (
            "callbacks",
            "success_callback",
            "failure_callback",
            "_async_success_callback",
            "_async_failure_callback",
            "input_callback",
        )
        before = {name: list(getattr(litellm, name)) for name in lists}
        prices = len(litellm.model_cost)
        with FakeServer({"a": Fail(500), "b": "fine"}) as server:
            for _ in range(1000):
                build_chat_model(server.spec())
            gc.collect()
            model = build_chat_model(server.spec())
            for _ in range(5):
                model.invoke("x")
            assert len(server.received("a")) == 3
        assert {name: list(getattr(litellm, name)) for name in lists} == before
        assert len(litellm.model_cost) == prices

    def test_dropping_the_last_copy_closes_the_connections(self):
        """Copies count: a living one keeps them open."""
        with FakeServer({"a": "hi"}) as server:
            model = build_chat_model(server.spec())
            model.invoke("x")
            runtime = model.runtime
            other = model.with_chain("default")
            finalizer = runtime._finalizer
            del model, runtime
            gc.collect()
            assert finalizer.alive
            assert other.invoke("x").content == "hi"
            del other
            gc.collect()
            assert not finalizer.alive

    def test_a_closed_model_says_so(self):
        """It answers no more, and says what to do."""
        with FakeServer({"a": "hi"}) as server:
            with build_chat_model(server.spec()) as model:
                model.invoke("x")
            with pytest.raises(RuntimeError, match="closed"):
                model.invoke("x")

    def test_it_does_not_pickle_and_says_why(self):
        """Connections and locks stay where they are."""
        with FakeServer({"a": "hi"}) as server, pytest.raises(TypeError, match="worker"):
            pickle.dumps(build_chat_model(server.spec()))

    def test_the_router_is_a_real_one_built_on_first_access(self):
        """No call of ours goes through it; groups and ids are as documented."""
        with FakeServer({"a": "hi", "b": "yo"}) as server:
            model = build_chat_model(server.spec())
            assert "router" not in vars(model)
            assert isinstance(model.router, litellm.Router)
            router = build_router(server.spec())
            names = [(entry["model_name"], entry["model_info"]["id"]) for entry in router.model_list]
            assert names == [("default", "default/a"), ("default/2", "default/b")]
            assert router.completion("default", [{"role": "user", "content": "x"}]).choices[0].message.content == "hi"
            for used in (model.router, router):
                used.discard()

    def test_the_router_has_weights_limits_names_for_prices_and_side_routes(self):
        """What litellm has a word for."""
        with FakeServer({"a": "hi", "b": "yo", "wide": "long"}) as server:
            limited = {"weight": 3, "limits": {"rpm": 60, "max_parallel": "auto"}, "base_model": "gpt-4.1"}
            spec = server.spec(deployments={"a": limited})
            spec["chains"]["default"].update(tiers=[["a", "b"]], on_context_window=["wide"])
            router = build_router(spec)
            first, second, side = router.model_list
            assert (first["litellm_params"]["weight"], first["litellm_params"]["rpm"]) == (3, 60)
            assert "max_parallel_requests" not in first["litellm_params"]
            assert first["model_info"]["base_model"] == "gpt-4.1"
            assert not {"weight", "rpm"} & {name for name, value in second["litellm_params"].items() if value}
            assert side["model_name"] == "default/on_context_window"
            assert router.context_window_fallbacks == [{"default": ["default/on_context_window"]}]
            router.discard()

    def test_reload_swaps_the_spec_and_keeps_the_state_of_unchanged_deployments(self):
        """An open breaker stays open; a wrong spec changes nothing."""
        with FakeServer({"a": Fail(500), "b": "old", "c": "new"}) as server:
            spec = server.spec()
            spec["chains"]["default"]["tiers"] = ["a", "b"]
            model = build_chat_model(spec)
            for _ in range(3):
                model.invoke("x")
            spec["chains"]["default"]["tiers"] = ["a", "c"]
            model.reload(spec)
            assert model.state()["a"]["breaker"] == "open"
            assert model.invoke("x").content == "new"
            with pytest.raises(SpecError):
                model.reload({"deployments": {}, "chains": {}})
            assert model.invoke("x").content == "new"

    @pytest.mark.parametrize("streamed", [False, True])
    def test_a_call_under_way_is_answered_though_a_reload_takes_its_deployment_away(self, streamed):
        """And says by whom: the answer has been paid for."""
        with FakeServer({"a": Reply("slow one", delay_s=0.4), "b": "new"}) as server:
            spec = server.spec()
            spec["chains"]["default"]["tiers"] = ["a"]
            model = build_chat_model(spec)
            with ThreadPoolExecutor(1) as pool:
                ask = (lambda: list(model.stream("x"))[-1]) if streamed else (lambda: model.invoke("x"))
                answer = pool.submit(ask)
                while not server.received("a"):
                    time.sleep(0.01)
                del spec["deployments"]["a"]
                spec["chains"]["default"]["tiers"] = ["b"]
                model.reload(spec)
                metadata = answer.result().response_metadata
        assert (metadata["model_name"], metadata["llm_fallback"]["deployment"]) == ("a", "a")

    def test_a_copy_on_a_chain_that_a_reload_took_away_says_so(self):
        """As for any other name that is none, whatever is asked of it."""
        with FakeServer({"a": "hi"}) as server:
            spec = server.spec()
            with_another = {"c": {"tiers": ["a"]}, **spec["chains"]}
            model = build_chat_model({**spec, "chains": with_another, "default_chain": "default"})
            copy = model.with_chain("c")
            model.reload(spec)
            for asked in (lambda: copy.invoke("x"), lambda: copy.profile, copy.explain, lambda: copy.ping("c")):
                with pytest.raises(ValueError, match="no chain is called 'c'; there are 'default'"):
                    asked()

    def test_calls_beside_reloads_are_all_answered(self):
        """By the spec of before or of after, never by a part of each."""
        with FakeServer({"a": "hi", "b": "hi"}) as server:
            specs = [server.spec(), server.spec()]
            for spec, name in zip(specs, "ab", strict=True):
                spec["deployments"] = {name: spec["deployments"][name]}
                spec["chains"]["default"]["tiers"] = [name]
            model = build_chat_model(specs[0])
            with ThreadPoolExecutor(4) as pool:
                answers = [pool.submit(model.invoke, "x") for _ in range(100)]
                for number in range(50):
                    model.reload(specs[number % 2])
                assert {answer.result().content for answer in answers} == {"hi"}
