"""fake_chat_model: a chain over scripted deployments in the process, for tests that want no network."""

from __future__ import annotations

import asyncio
import gc
import subprocess
import sys
import textwrap
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from langchain.agents import create_agent
from langchain_core.callbacks import BaseCallbackHandler, UsageMetadataCallbackHandler
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.runnables import ConfigurableField
from langchain_core.tools import tool
from pydantic import BaseModel

from llm_fallback import (
    BudgetExceeded,
    CallEnded,
    ChainExhausted,
    FellBack,
    SpecError,
    StreamBroken,
    build_chat_model,
    get_cost_callback,
)
from llm_fallback.testing import (
    Cut,
    Fail,
    FakeServer,
    JumpingClock,
    RealClock,
    Reply,
    Stall,
    assert_attempts,
    fake_chat_model,
)
from tests.asking import MODES, STREAMED, TWO_MODES, ask, merged


@tool
def weather(city: str) -> str:
    """The weather in a city."""
    return f"rain in {city}"


class Answer(BaseModel):
    """An answer."""

    number: int


PRICED = {
    "deployments": {
        "primary": {
            "backend": "vllm",
            "model": "qwen",
            "api_base": "http://gpu:8000",
            "price": {"input_per_million": 2, "output_per_million": 4},
        },
        "backup": {"model": "openai/gpt-4.1", "api_key": "${NEVER_SET_KEY}"},
    },
    "chains": {"good": {"tiers": ["primary", "backup"]}, "cheap": {"tiers": ["primary"]}},
    "default_chain": "good",
}


ONE_AT_A_TIME = {
    "deployments": {"a": {"backend": "vllm", "model": "a", "api_base": "http://gpu", "limits": {"max_parallel": 1}}},
    "chains": {"main": {"tiers": ["a"], "accept": lambda message: bool(message.content)}},
}
CROWDS = {
    "plain": lambda model: model.invoke("x").content,
    "streamed": lambda model: "".join(chunk.text for chunk in model.stream("x")),
    "on loops of their own": lambda model: asyncio.run(model.ainvoke("x")).content,
}
"""Eight threads ask at once, each in this way."""


class TestAnswering:
    @pytest.mark.parametrize("mode", MODES)
    async def test_it_falls_back_like_the_real_one(self, mode):
        """A chat model of LangChain's that fails as told, in every mode."""
        model = fake_chat_model({"primary": Fail(429, retry_after=2), "backup": "hello"})
        assert isinstance(model, BaseChatModel)
        message = await ask(model, mode)
        assert message.content == "hello"
        assert_attempts(message, "primary: rate_limited", "backup: succeeded")
        assert message.response_metadata["model_name"] == "backup"

    def test_without_scripts_it_answers_sensibly(self):
        """One deployment that echoes, calls tools and counts tokens."""
        message = fake_chat_model().invoke("What is the capital of France?")
        assert "capital of France" in message.content
        assert message.usage_metadata["input_tokens"] > 0

    @pytest.mark.parametrize("mode", STREAMED)
    async def test_it_streams_token_by_token_and_the_last_chunk_has_the_facts(self, mode):
        """Text, then finish, usage and facts, each once."""
        model = fake_chat_model({"a": Reply("one two three", usage=(3, 4), reasoning="let me see")})
        chunks = list(model.stream("x")) if mode == "stream" else [chunk async for chunk in model.astream("x")]
        assert [chunk.text for chunk in chunks if chunk.text] == ["one", " two", " three"]
        assert ["llm_fallback" in chunk.response_metadata for chunk in chunks] == [False] * (len(chunks) - 1) + [True]
        whole = merged(chunks)
        assert whole.usage_metadata["total_tokens"] == 7
        assert whole.additional_kwargs["reasoning_content"] == "let me see"
        assert whole.response_metadata["finish_reason"] == "stop"

    @pytest.mark.parametrize("mode", MODES)
    async def test_an_exhausted_chain_raises_what_the_real_one_raises(self, mode):
        """With attempts and the same text."""
        with pytest.raises(ChainExhausted, match=r"a: server_error \(500\)") as caught:
            await ask(fake_chat_model({"a": Fail(500)}, retries={"max": 0}), mode)
        assert_attempts(caught.value, "a: server_error")

    @pytest.mark.parametrize("mode", STREAMED)
    async def test_a_stream_breaks_is_held_or_goes_on_as_asked(self, mode):
        """All three of on_stream_break."""
        scripts = {"a": Cut(after_chunks=2, reply="one two three"), "b": "one two three"}
        with pytest.raises(StreamBroken) as caught:
            await ask(fake_chat_model(scripts), mode)
        assert caught.value.partial.content == "one two"
        held = await ask(fake_chat_model(scripts, on_stream_break="hold"), mode)
        assert held.content == "one two three"
        stitched = await ask(fake_chat_model(scripts, on_stream_break="continue"), mode)
        assert stitched.content == "one two three"
        assert stitched.response_metadata["llm_fallback"]["stitched"] is True

    @pytest.mark.parametrize("mode", MODES)
    async def test_a_hedge_wins_against_a_slow_primary(self, mode):
        """In the clock's time: the second one is asked after 1.5 s and answers at once."""
        scripts = {"slow": Reply("late", delay_s=9), "quick": "here"}
        message = await ask(fake_chat_model(scripts, hedge={"after_s": 1.5}), mode)
        assert message.content == "here"
        assert_attempts(message, "slow: cancelled", "quick: succeeded")
        assert message.response_metadata["llm_fallback"]["latency_s"] == 1.5

    @pytest.mark.parametrize("mode", MODES)
    async def test_accept_and_listeners_work(self, mode):
        """A predicate's no is a failure; a listener hears what happened."""
        heard = []
        model = fake_chat_model(
            {"a": "bad", "b": "good"}, accept=lambda message: "good" in message.content, listeners=[heard.append]
        )
        assert_attempts(await ask(model, mode), "a: rejected", "b: succeeded")
        assert [type(event) for event in heard[-2:]] == [FellBack, CallEnded]


class TestToolsAndSchemas:
    @pytest.mark.parametrize("mode", ["invoke", "ainvoke", "stream", "astream"])
    async def test_an_agent_runs_on_it(self, mode):
        """create_agent calls the tool and reads its answer, through the fallback."""
        agent = create_agent(fake_chat_model({"down": Fail(500), "up": None}), [weather])
        given = {"messages": [HumanMessage("weather in Oslo?")]}
        match mode:
            case "invoke":
                state = agent.invoke(given)
            case "ainvoke":
                state = await agent.ainvoke(given)
            case "stream":
                state = list(agent.stream(given, stream_mode="values"))[-1]
            case _:
                state = [part async for part in agent.astream(given, stream_mode="values")][-1]
        assert state["messages"][-1].content == "According to weather: rain in Oslo"

    @pytest.mark.parametrize("choice", ["weather", "any", True, "required"])
    def test_a_forced_tool_is_called(self, choice):
        """Whatever the prompt says; "any" and True are sent as OpenAI's "required"."""
        model = fake_chat_model()
        message = model.bind_tools([weather], tool_choice=choice).invoke("thanks")
        assert [call["name"] for call in message.tool_calls] == ["weather"]
        sent = model.received()[0].body["tool_choice"]
        assert sent == ({"type": "function", "function": {"name": "weather"}} if choice == "weather" else "required")

    def test_a_choice_of_a_tool_that_is_not_offered_is_refused(self):
        """When it is bound, not when it is asked."""
        with pytest.raises(ValueError, match="weather"):
            fake_chat_model().bind_tools([weather], tool_choice="wether")
        for nobody in ({}, None, {"name": ["weather"]}):
            with pytest.raises(ValueError, match="tool_choice names"):
                fake_chat_model().bind_tools([weather], tool_choice={"type": "function", "function": nobody})

    @pytest.mark.parametrize(
        "words",
        [
            *({"n": odd} for odd in ("2", "many", [], -1)),
            *({"max_tokens": odd} for odd in ("300", "ten", [], -1)),
            {"stream_options": 5},
        ],
    )
    @pytest.mark.parametrize("mode", TWO_MODES)
    async def test_numbers_and_options_that_are_none_count_for_nothing(self, words, mode):
        """A reply that came is no error for them, of a fake or over HTTP."""
        assert (await ask(fake_chat_model({"a": None}), mode, "hi", **words)).text == "A fake answer to: hi"
        with FakeServer({"a": None}) as server, build_chat_model(server.spec()) as model:
            assert (await ask(model, mode, "hi", **words)).text == "A fake answer to: hi"

    @pytest.mark.parametrize("method", ["json_schema", "function_calling", "json_mode"])
    @pytest.mark.parametrize("mode", MODES)
    async def test_a_reply_that_does_not_parse_falls_back(self, method, mode):
        """By every method; the next deployment's reply is the answer."""
        good = Reply('{"number": 7}')
        if method == "function_calling":
            good = Reply(tool_calls=[{"name": "Answer", "args": {"number": 7}}])
        model = fake_chat_model({"a": "sorry", "b": good})
        structured = model.with_structured_output(Answer, method=method)
        if mode in STREAMED:
            parts = (
                list(structured.stream("x")) if mode == "stream" else [part async for part in structured.astream("x")]
            )
            assert parts[-1] == Answer(number=7)
        else:
            assert await ask(structured, mode) == Answer(number=7)
        assert [received.deployment for received in model.received()] == ["a", "b"]

    @pytest.mark.parametrize("method", ["json_schema", "function_calling"])
    def test_include_raw_gives_the_message_too(self, method):
        """With what was parsed, and no error."""
        answer = fake_chat_model().with_structured_output(Answer, method=method, include_raw=True).invoke("7")
        assert isinstance(answer["raw"], AIMessage)
        assert isinstance(answer["parsed"], Answer)
        assert answer["parsing_error"] is None

    def test_a_schema_as_a_dict_gives_a_dict(self):
        """As with LangChain's other models."""
        schema = {"title": "answer", "type": "object", "properties": {"number": {"type": "integer"}}}
        assert isinstance(fake_chat_model().with_structured_output(schema).invoke("7"), dict)

    def test_a_method_that_is_none_is_refused(self):
        """By name."""
        with pytest.raises(ValueError, match="json_scheme"):
            fake_chat_model().with_structured_output(Answer, method="json_scheme")


class TestASpecOfOnesOwn:
    def test_its_chains_are_asked_and_its_variables_need_not_be_set(self, tmp_path):
        """Deployments are fakes, everything else is as declared; keys are not read."""
        file = tmp_path / "llm-fallback.yaml"
        file.write_text(
            textwrap.dedent("""
            deployments:
              gpu: {backend: vllm, model: "${MODEL_NOBODY_SET}", api_base: "${URL_NOBODY_SET}"}
              hosted: {model: openai/gpt-4.1, api_key: "${KEY_NOBODY_SET:?ask the boss}"}
            chains:
              assistant: {tiers: [gpu, hosted], timeouts: {total_s: 9}}
            """)
        )
        model = fake_chat_model({"gpu": Fail(503)}, spec=file)
        message = model.invoke("hi")
        assert_attempts(message, "gpu: overloaded", "hosted: succeeded")
        assert model.explain()["max_seconds"] == 9
        assert message.response_metadata["model_name"] == "gpt-4.1"

    def test_a_key_that_is_a_function_is_not_asked(self):
        """It may open a vault; a fake needs none."""

        def vault():
            raise AssertionError("asked")

        running = {"model": "openai/gpt-4.1", "api_key": vault}
        spec = {"deployments": {"hosted": running}, "chains": {"c": {"tiers": ["hosted"]}}}
        assert fake_chat_model(spec=spec).invoke("hi").content

    def test_prices_are_the_specs_or_litellms_list(self):
        """Read from the file litellm ships."""
        model = fake_chat_model(spec=PRICED, chain="good")
        model.script("primary", Reply("x", usage=(1000, 500)))
        assert model.invoke("hi").response_metadata["llm_fallback"]["cost_usd"] == pytest.approx(0.004)
        model.script("primary", Fail("bad_request"))
        model.script("backup", Reply("x", usage=(1000, 500)))
        cost = model.invoke("hi").response_metadata["llm_fallback"]["cost_usd"]
        assert cost == pytest.approx((1000 * 2 + 500 * 8) / 1e6)

    def test_scripts_for_deployments_it_does_not_have_are_refused_all_at_once(self):
        """Each with the nearest name."""
        with pytest.raises(SpecError) as caught:
            fake_chat_model({"primray": "x", "bakcup": "y"}, spec=PRICED)
        assert [mistake.remedy for mistake in caught.value.mistakes] == [
            "did you mean 'primary'?",
            "did you mean 'backup'?",
        ]

    def test_overrides_are_those_of_the_real_one(self):
        """A typo is refused, a request parameter reaches the deployments."""
        with pytest.raises(SpecError, match="temperature"):
            fake_chat_model(temprature=1)
        with pytest.raises(SpecError, match="api_key"):
            fake_chat_model(api_key="sk")
        model = fake_chat_model(temperature=0.5, seed=3)
        model.bind(seed=4).invoke("hi", stop=["x"])
        body = model.received()[0].body
        assert (body["temperature"], body["seed"], body["stop"]) == (0.5, 4, ["x"])

    def test_chains_are_chosen_in_all_of_langchains_ways(self):
        """chain=, model=, configurable and with_chain."""
        model = fake_chat_model({"primary": Fail(500)}, spec=PRICED)
        assert model.invoke("x").response_metadata["llm_fallback"]["deployment"] == "backup"
        for copied in (
            model.bind(chain="cheap"),
            model.bind(model="cheap"),
            model.with_config(configurable={"chain": "cheap"}),
            model.with_chain("cheap"),
        ):
            with pytest.raises(ChainExhausted, match="cheap"):
                copied.invoke("x")
        with pytest.raises(ValueError, match="cheap"):
            model.invoke("x", chain="chaep")


class TestWatching:
    def test_what_each_deployment_received_can_be_looked_at(self):
        """As a server would have got it: parameters of deployment, model and call, and the messages."""
        model = fake_chat_model({"a": Fail(500), "b": "x"}, temperature=0.1)
        model.invoke([SystemMessage("be brief"), HumanMessage("hi")])
        [received] = model.received("b")
        assert received.body == {
            "model": "b",
            "temperature": 0.1,
            "messages": [{"role": "system", "content": "be brief"}, {"role": "user", "content": "hi"}],
        }
        assert [received.deployment for received in model.received()] == ["a", "b"]
        with pytest.raises(ValueError, match="did you mean 'b'"):
            model.received("bb")

    def test_scripts_change_in_the_middle_of_a_test(self):
        """For every copy of the model."""
        model = fake_chat_model({"a": "one", "b": "two"})
        bound = model.bind(temperature=0)
        assert bound.invoke("x").content == "one"
        model.script("a", Fail(500))
        assert bound.invoke("x").content == "two"
        model.script("a", "three", "four")
        assert [bound.invoke("x").content for _ in range(2)] == ["three", "four"]

    async def test_a_stream_that_is_left_is_seen_to_be_left(self):
        """And counts as no failure."""
        model = fake_chat_model({"a": Reply("one two three", chunk_delay_s=1)})
        stream = model.astream("x")
        await anext(stream)
        await stream.aclose()
        assert model.received("a")[0].client_gone_at is not None
        assert model.state()["a"]["failures"] == 0
        for _ in model.stream("x"):
            break
        gc.collect()
        assert model.received("a")[1].answered_at is None

    def test_usage_and_cost_callbacks_count_it(self):
        """LangChain's own and ours."""
        usage = UsageMetadataCallbackHandler()
        model = fake_chat_model(spec=PRICED)
        model.script("primary", Reply("x", usage=(1000, 500)))
        with get_cost_callback() as cost:
            model.invoke("hi", config={"callbacks": [usage]})
        assert usage.usage_metadata["qwen"]["total_tokens"] == 1500
        assert cost.snapshot()["total_usd"] == pytest.approx(0.004)


class TestTime:
    @pytest.mark.parametrize("mode", STREAMED)
    async def test_a_stall_costs_no_time_and_exactly_its_limit_on_the_clock(self, mode):
        """first_token_s passes on the clock, not on the wall."""
        model = fake_chat_model({"a": Stall(), "b": "hello"}, timeouts={"first_token_s": 30})
        began = time.monotonic()
        message = await ask(model, mode)
        assert time.monotonic() - began < 20
        facts = message.response_metadata["llm_fallback"]
        assert_attempts(message, "a: first_token_timeout", "b: succeeded")
        assert [attempt["latency_s"] for attempt in facts["attempts"]] == [30.0, 0.0]
        assert model.clock.now() == 30.0

    @pytest.mark.parametrize("keep_alive", [None, "comments", "roles"])
    async def test_keep_alives_are_no_content(self, keep_alive):
        """Neither before the first token nor after it."""
        limits = {"first_token_s": 2, "idle_s": 3}
        stalled = fake_chat_model({"a": Stall(keep_alive=keep_alive), "b": "x"}, timeouts=limits)
        assert_attempts(await ask(stalled, "astream"), "a: first_token_timeout", "b: succeeded")
        silent = fake_chat_model({"a": Stall(1, keep_alive=keep_alive)}, timeouts=limits)
        with pytest.raises(StreamBroken) as caught:
            await ask(silent, "stream")
        assert_attempts(caught.value, "a: idle_timeout")

    def test_scripted_delays_are_the_latencies(self):
        """To the microsecond, so that a test can compare them."""
        model = fake_chat_model({"a": Reply("one two", delay_s=0.25, chunk_delay_s=0.5)})
        facts = merged(list(model.stream("x"))).response_metadata["llm_fallback"]
        assert (facts["time_to_first_token_s"], facts["latency_s"]) == (0.25, 0.75)

    def test_a_reply_that_breaks_off_keeps_its_pace_until_then(self):
        """A quarter of a second of silence, then half of one between its words."""
        reply = Reply("one two three", delay_s=0.25, chunk_delay_s=0.5)
        model = fake_chat_model({"a": Cut(2, reply=reply)})
        with pytest.raises(StreamBroken) as caught:
            list(model.stream("x"))
        assert (caught.value.attempts[0].time_to_first_token_s, caught.value.attempts[0].latency_s) == (0.25, 0.75)
        stalled = fake_chat_model({"a": Stall(2, reply=reply)}, timeouts={"idle_s": 3})
        with pytest.raises(StreamBroken) as caught:
            list(stalled.stream("x"))
        assert caught.value.attempts[0].latency_s == 3.75

    def test_a_breakers_cooldown_is_waited_for_by_moving_the_clock(self):
        """Hours in a moment: open, then a probe, then closed."""
        clock = JumpingClock()
        model = fake_chat_model({"a": [Fail(429, retry_after=60), "back"], "b": "spare"}, clock=clock)
        assert model.invoke("x").content == "spare"
        assert model.invoke("x").response_metadata["llm_fallback"]["skipped"][0]["retry_in_s"] == 60
        clock.advance(61)
        assert model.invoke("x").content == "back"

    @pytest.mark.parametrize("mode", MODES)
    async def test_a_day_s_budget_ends_with_the_clock_s_day(self, mode):
        """There is money for one call a day of 256 tokens at $10 a million, and the prompt."""
        clock = JumpingClock()
        price = {"input_per_million": 0, "output_per_million": 10}
        spec = {
            "deployments": {"a": {"model": "openai/gpt-4.1", "price": price}},
            "chains": {"main": {"tiers": ["a"], "budget": {"usd_per_day": 0.00256}}},
        }
        model = fake_chat_model({"a": Reply("hello", usage=(1, 256))}, spec=spec, clock=clock)
        for _ in range(2):
            await ask(model, mode)
            with pytest.raises(BudgetExceeded):
                await ask(model, mode)
            clock.advance(86_400)
        assert len(model.received()) == 2

    @pytest.mark.parametrize("mode", STREAMED)
    async def test_what_the_reader_does_with_a_chunk_is_not_the_call_s_time(self, mode):
        """A reader may sit over each for a minute: neither `total_s` nor the cost knows."""
        clock = JumpingClock()
        model = fake_chat_model({"a": Reply("one two three", chunks=3)}, clock=clock, timeouts={"total_s": 5})
        read = []
        if mode == "stream":
            for chunk in model.stream("hi"):
                clock.advance(60)
                read.append(chunk)
        else:
            async for chunk in model.astream("hi"):
                clock.advance(60)
                read.append(chunk)
        facts = merged(read).response_metadata["llm_fallback"]
        assert (facts["attempts"][0]["outcome"], facts["latency_s"]) == ("succeeded", 60.0 * (len(read) - 1))

    @pytest.mark.parametrize("mode", STREAMED)
    async def test_what_handlers_do_with_a_chunk_is_the_call_s_time(self, mode):
        """The caller waits for them: for the third they have had six seconds of five."""

        class Slow(BaseCallbackHandler):
            def on_llm_new_token(self, token, **kwargs):
                clock.advance(3)

        clock = JumpingClock()
        model = fake_chat_model({"a": Reply("one two three", chunks=3)}, clock=clock, timeouts={"total_s": 5})
        with pytest.raises(StreamBroken, match=r"total_s \(5 s\) is over") as broken:
            await ask(model, mode, config={"callbacks": [Slow()]})
        assert broken.value.partial.text == "one two "

    async def test_cancelling_needs_a_clock_that_waits(self):
        """On a RealClock a stall is one, and a call in it can be cancelled."""
        model = fake_chat_model({"a": Stall()}, clock=RealClock())
        task = asyncio.create_task(model.ainvoke("x"))
        while not model.received():
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert model.received()[0].client_gone_at is not None
        assert model.state()["a"]["in_flight"] == 0

    async def test_sync_and_async_callers_share_one_clock(self):
        """Calls on the test's own loop, on others, and from threads, all at once."""
        model = fake_chat_model({"a": Reply("slow", delay_s=5)})

        def elsewhere():
            return asyncio.run(model.ainvoke("x")).content

        with ThreadPoolExecutor(4) as pool:
            loop = asyncio.get_running_loop()
            calls = [loop.run_in_executor(pool, model.invoke, "x") for _ in range(10)]
            calls += [loop.run_in_executor(pool, elsewhere) for _ in range(10)]
            messages = await asyncio.gather(*(model.ainvoke("x") for _ in range(10)))
            others = await asyncio.gather(*calls)
        assert {message.content for message in messages} == {"slow"}
        assert len(others) == 20
        assert model.invoke("x").content == "slow"

    @pytest.mark.parametrize("way", CROWDS)
    def test_calls_that_wait_for_each_other_are_all_answered(self, way):
        """A free place is waited for while the call that has it is with its caller or on another event loop: no time
        passes meanwhile, least of all the whole of `total_s`."""
        model = fake_chat_model({"a": Reply("one two", delay_s=1)}, spec=ONE_AT_A_TIME)
        with ThreadPoolExecutor(8) as pool:
            answers = list(pool.map(lambda _: CROWDS[way](model), range(8)))
        assert answers == ["one two"] * 8
        assert model.clock.now() == 8


class TestSharing:
    def test_state_is_shared_by_everything_derived(self):
        """A breaker opened through one copy is open for all, rebuilt ones too."""
        model = fake_chat_model({"a": Fail(500), "b": "fine"})
        warm = model.configurable_fields(temperature=ConfigurableField(id="temperature"))
        for derived in (model.bind_tools([]), model.model_copy(), warm.with_config(configurable={"temperature": 1})):
            derived.invoke("x")
        assert model.state()["a"]["breaker"] == "open"
        assert len(model.received("a")) == 3
        assert model.received("b")[-1].body["temperature"] == 1

    def test_reload_goes_on_with_the_new_spec_also_where_the_model_is_rebuilt(self):
        """A deployment that is new answers sensibly."""
        model = fake_chat_model({"primary": Fail(500)}, spec=PRICED)
        warm = model.configurable_fields(temperature=ConfigurableField(id="temperature"))
        spec = {**PRICED, "deployments": {**PRICED["deployments"], "third": PRICED["deployments"]["primary"]}}
        spec["chains"] = {"good": {"tiers": ["third"]}, "cheap": {"tiers": ["primary"]}}
        model.reload(spec)
        for derived in (model, warm.with_config(configurable={"temperature": 1})):
            assert derived.invoke("x").response_metadata["llm_fallback"]["deployment"] == "third"

    def test_a_closed_model_says_so(self):
        """Like the real one."""
        with fake_chat_model() as model:
            model.invoke("x")
        with pytest.raises(RuntimeError, match="closed"):
            model.invoke("x")

    def test_threads_each_get_their_own_answer(self):
        """Many at once, and every request is kept."""
        model = fake_chat_model()
        with ThreadPoolExecutor(16) as pool:
            answers = list(pool.map(lambda i: model.invoke(f"say {i}").content, range(64)))
        assert len(set(answers)) == 64
        assert len(model.received()) == 64

    async def test_lcel_and_events_work(self):
        """A Runnable like any other."""
        chain = ChatPromptTemplate.from_template("{x}") | fake_chat_model({"a": Fail(500), "b": "fine"})
        events = [event async for event in (chain | StrOutputParser()).astream_events({"x": "hi"}, version="v2")]
        names = [event["name"] for event in events if event["event"] == "on_custom_event"]
        assert names == ["llm_fallback.attempt_failed", "llm_fallback.fell_back"]


@pytest.mark.slow
def test_it_is_made_and_asked_without_litellm_or_a_connection():
    """In a fresh process: no litellm, no HTTP library, nobody connected to or looked up."""
    program = """
import sys
reached = []
sys.addaudithook(lambda event, args: reached.append(event) if event in
    ("socket.connect", "socket.getaddrinfo", "socket.sendto") else None)
from llm_fallback.testing import Fail, assert_attempts, fake_chat_model
model = fake_chat_model({"primary": Fail(429), "backup": "hello"})
assert_attempts(model.invoke("hi"), "primary: rate_limited", "backup: succeeded")
print("".join(chunk.text for chunk in model.stream("hi")))
heavy = {"litellm", "langchain_litellm", "openai", "httpx", "aiohttp"} & set(sys.modules)
print(sorted(heavy), reached)
"""
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert ran.stdout.splitlines() == ["hello", "[] []"], ran.stderr


def test_dropping_a_model_leaves_no_thread_and_no_task():
    """But for the one loop sync calls share."""
    fake_chat_model().invoke("x")
    before = threading.active_count()
    for _ in range(50):
        fake_chat_model({"a": Stall(), "b": "x"}).invoke("x")
    gc.collect()
    assert threading.active_count() == before


NO_LIMITS = [
    ({"timeout": value}, "timeout: must be a number of seconds greater than 0, got", "write timeout=20")
    for value in (-1, 0, float("nan"), float("inf"), "20", True)
] + [
    ({"max_retries": value}, "max_retries: must be a whole number, at least 0, got", "write max_retries=0")
    for value in (-1, 1.5, "2", True)
]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(("words", "problem", "remedy"), NO_LIMITS)
async def test_a_limit_that_is_none_is_an_error_and_no_outage(words, problem, remedy, mode):
    """It names argument, value and remedy, when a model is built, bound or asked; nobody is asked."""
    with fake_chat_model({"a": "hi"}) as model:
        for attempt in (lambda: ask(model, mode, "hi", **words), lambda: ask(model.bind(**words), mode, "hi")):
            with pytest.raises(SpecError) as caught:
                await attempt()
            [value] = words.values()
            assert f"{problem} {value!r}; {remedy}" in str(caught.value)
        assert model.received() == []
    with pytest.raises(SpecError, match=problem):
        fake_chat_model({"a": "hi"}, **words)


def test_no_tool_calls_may_be_written_as_none():
    """As a server's reply has them."""
    with fake_chat_model({"a": Reply("hi", tool_calls=None)}) as model:
        message = model.invoke("hi")
    assert (message.text, message.tool_calls) == ("hi", [])
    assert Reply("hi", tool_calls=None) == Reply("hi")


@pytest.mark.parametrize(
    ("deployments", "max_retries", "notes"),
    [
        (
            1,
            1,
            ["1 deployment is asked at most once, without a pause", "then at most 1 repeat, with backoff, if it fits"],
        ),
        (
            2,
            2,
            [
                "2 deployments are asked at most once each, in order, without a pause",
                "then at most 2 repeats, with backoff, if they fit",
            ],
        ),
    ],
)
def test_one_is_not_several(deployments, max_retries, notes):
    """In what a model explains."""
    scripts = dict.fromkeys(("a", "b")[:deployments], "hi")
    with fake_chat_model(scripts, max_retries=max_retries) as model:
        told = model.explain()["notes"]
    assert [note[: len(expected)] for note, expected in zip(told, notes, strict=False)] == notes
