"""A prompt, a chain and the form of its answer: what is asked of a reply, who is asked next, and how it streams."""

from __future__ import annotations

import asyncio
import gc
import sys
import weakref
from types import ModuleType
from typing import Any

import pytest
from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.output_parsers import (
    CommaSeparatedListOutputParser,
    JsonOutputParser,
    PydanticOutputParser,
    StrOutputParser,
)
from langchain_core.prompts import ChatPromptTemplate, MessagesPlaceholder
from langchain_core.runnables import RunnableLambda, RunnableParallel, RunnableSequence
from langgraph.graph import END, START, StateGraph
from pydantic import BaseModel
from typing_extensions import TypedDict

from llm_fallback import (
    CallEnded,
    ChainExhausted,
    SpecError,
    StreamBroken,
    build_chat_model,
    build_runnables,
    fallback_chain,
)
from llm_fallback.testing import Cut, Fail, FakeServer, Reply
from tests.asking import MODES


class Person(BaseModel):
    """Somebody."""

    name: str
    age: int


class Told(TypedDict):
    """The state of a graph."""

    it: str


class Town(TypedDict):
    """A place."""

    name: str
    people: int


ADA = '{"name": "Ada", "age": 36}'
SHIP = {
    "title": "Ship",
    "description": "A vessel.",
    "type": "object",
    "properties": {"name": {"type": "string"}, "masts": {"type": "integer"}},
    "required": ["name", "masts"],
}
FORMS: dict[str, tuple[Any, str, str, Any]] = {
    "json": ("json", "sorry, no", "[1, 2]", [1, 2]),
    "json of Python's own": ("json", "NaN", '{"a": 1}', {"a": 1}),
    "json that breaks off": ("json", '{"a": "half of', '{"a": "whole"}', {"a": "whole"}),
    "a pydantic model": (Person, '{"name": "Ada"}', ADA, Person(name="Ada", age=36)),
    "a model that breaks off": (Person, '{"age": 36, "name": "Ad', ADA, Person(name="Ada", age=36)),
    "a TypedDict": (Town, "{}", '{"name": "Oslo", "people": 7}', {"name": "Oslo", "people": 7}),
    "a JSON schema": (SHIP, '"Fram"', '{"name": "Fram", "masts": 3}', {"name": "Fram", "masts": 3}),
    "a parser": (
        PydanticOutputParser(pydantic_object=Person),
        "Ada, 36",
        f"```json\n{ADA}\n```",
        Person(name="Ada", age=36),
    ),
}
"""A form, a reply that is not of it, one that is, and what is read from that."""

GOOD_OR_CHEAP = {"good": ["a"], "cheap": ["b"]}
TO_CHEAP = {"configurable": {"chain": "cheap"}}
CHEAP: dict[str, tuple[Any, dict[str, Any]]] = {
    "a word of the call": (lambda runnable: runnable, {"chain": "cheap"}),
    "a config of the call": (lambda runnable: runnable, {"config": TO_CHEAP}),
    "a word that is bound": (lambda runnable: runnable.bind(chain="cheap"), {}),
    "a config that is bound": (lambda runnable: runnable.with_config(TO_CHEAP), {}),
    "with_chain": (lambda runnable: runnable.with_chain("cheap"), {}),
}
"""The ways to choose another chain: what is done to the runnable, and what is said in the call."""


class Calls(list[CallEnded]):
    """A listener that keeps what came of each call."""

    def __call__(self, event: Any) -> None:
        if isinstance(event, CallEnded):
            self.append(event)

    @property
    def attempts(self) -> list[list[tuple[str, str]]]:
        """Deployment and failure, or outcome where there is none, of each call."""
        return [[(one.deployment, one.failure or one.outcome) for one in call.record.attempts] for call in self]


async def answer(runnable: Any, mode: str, given: Any = "x", **options: Any) -> Any:
    """What the runnable makes of it: of texts the whole, of growing objects the last."""
    if mode in ("stream", "astream"):
        parts = (
            list(runnable.stream(given, **options))
            if mode == "stream"
            else [part async for part in runnable.astream(given, **options)]
        )
        return "".join(parts) if all(isinstance(part, str) for part in parts) else parts[-1]
    match mode:
        case "invoke":
            return runnable.invoke(given, **options)
        case "ainvoke":
            return await runnable.ainvoke(given, **options)
        case "batch":
            return runnable.batch([given], **options)[0]
    return (await runnable.abatch([given], **options))[0]


def declared(server: FakeServer, chains: dict[str, list[str]] | None = None, **runnables: Any) -> dict[str, Any]:
    """The server's spec with runnables, and with chains of one's own where they are named."""
    spec = {**server.spec(), "runnables": runnables}
    if chains is not None:
        spec["chains"] = {name: {"tiers": tiers} for name, tiers in chains.items()}
        spec["default_chain"] = next(iter(chains))
    return spec


class TestForms:
    @pytest.mark.parametrize("mode", MODES)
    @pytest.mark.parametrize("form", FORMS)
    async def test_a_reply_that_is_not_of_the_form_is_rejected_and_the_next_is_asked_the_same(self, form, mode):
        """In every mode; nothing of the rejected reply is delivered, and its breaker knows nothing of it."""
        output, bad, good, read = FORMS[form]
        calls = Calls()
        with FakeServer({"a": bad, "b": good}) as server:
            model = build_chat_model(server.spec(), listeners=[calls])
            assert await answer(fallback_chain("About {it}", model, output), mode) == read
            (first,), (second,) = server.received("a"), server.received("b")
        assert calls.attempts == [[("a", "rejected"), ("b", "succeeded")]]
        assert {**first.body, "model": ""} == {**second.body, "model": ""}
        assert first.body["messages"] == [{"role": "user", "content": "About x"}]
        assert model.state()["a"]["failures"] == 0

    @pytest.mark.parametrize("mode", MODES)
    async def test_text_is_whatever_is_said(self, mode):
        """Nothing is judged, and the first deployment's word is the answer."""
        with FakeServer({"a": "sorry, no", "b": ADA}) as server:
            chain = fallback_chain("About {it}", build_chat_model(server.spec()))
            assert await answer(chain, mode) == "sorry, no"
            assert server.received("b") == []

    async def test_when_no_reply_is_of_the_form_the_chain_is_exhausted(self):
        """The error says of each why it was rejected, and quotes none of it."""
        with FakeServer({"a": "sorry, no", "b": '{"name": "Ada"}'}) as server:
            chain = fallback_chain("{it}", build_chat_model(server.spec(), max_retries=0), Person)
            with pytest.raises(ChainExhausted) as caught:
                chain.invoke("x")
        assert caught.value.failure == "rejected"
        assert [attempt.message for attempt in caught.value.attempts] == [
            "the reply does not parse: JSONDecodeError",
            "the reply does not parse: age: field required",
        ]

    async def test_a_schemas_missing_keys_are_named(self):
        """Of plain data LangChain's parser asks no more than that they are JSON."""
        with FakeServer({"a": '{"name": "Fram"}', "b": "[3]"}) as server:
            model = build_chat_model(server.spec(), max_retries=0)
            with pytest.raises(ChainExhausted) as caught:
                fallback_chain("{it}", model, SHIP).invoke("x")
        messages = [attempt.message for attempt in caught.value.attempts]
        assert messages == ["the reply lacks 'masts'", "the reply is JSON, but no object"]

    async def test_null_is_json(self):
        """A form in words asks for no more than it says."""
        with FakeServer({"a": "null", "b": "1"}) as server:
            assert fallback_chain("{it}", build_chat_model(server.spec()), "json").invoke("x") is None

    def test_accept_judges_what_has_the_form(self):
        """Both must be content; what does not parse never reaches the predicate."""
        seen = []

        def accept(message):
            seen.append(message.content)
            return "Ada" in message.content

        with FakeServer({"a": "no json", "b": '{"name": "Bob", "age": 1}', "c": ADA}) as server:
            model = build_chat_model(server.spec(), accept=accept)
            assert fallback_chain("{it}", model, Person).invoke("x").name == "Ada"
        assert seen == ['{"name": "Bob", "age": 1}', ADA]


class TestStreams:
    async def test_text_is_streamed_as_it_comes(self):
        """It is not held: what came before a break was delivered."""
        with FakeServer({"a": Cut(after_chunks=2, reply="once upon a time"), "b": "x"}) as server:
            pieces: list[str] = []
            chain = fallback_chain("{it}", build_chat_model(server.spec()))
            with pytest.raises(StreamBroken):
                async for piece in chain.astream("x"):
                    pieces.append(piece)
        assert [piece for piece in pieces if piece] == ["once", " upon"]

    @pytest.mark.parametrize("on_break", ["raise", "continue", "hold"])
    @pytest.mark.parametrize("output", ["json", Person, JsonOutputParser()], ids=str)
    async def test_a_form_is_held_and_then_streamed_as_langchains_parser_streams_it(self, output, on_break):
        """Objects grow up to the whole; of a reply that broke off there is no trace, whatever the chain does with
        streams of text."""
        half = Cut(after_chunks=2, reply='{"name": "Bob", "age": 1}')
        with FakeServer({"a": half, "b": Reply(ADA, chunks=12)}) as server:
            model = build_chat_model(server.spec(), on_stream_break=on_break)
            grown = [part async for part in fallback_chain("About {it}", model, output).astream("x")]
            parser = PydanticOutputParser(pydantic_object=Person) if output is Person else JsonOutputParser()
            alone = build_chat_model({**server.spec(), "chains": {"alone": {"tiers": ["b"]}}})
            plain = [part async for part in (alone | parser).astream("About x")]
        assert grown == plain
        assert "Bob" not in str(grown)

    async def test_a_reader_who_leaves_closes_the_request(self):
        """After the first piece; the deployment is free again."""
        with FakeServer({"a": Reply("a long story", chunk_delay_s=0.05)}) as server:
            model = build_chat_model(server.spec())
            stream = fallback_chain("{it}", model).astream("x")
            await anext(stream)
            await stream.aclose()
            async with asyncio.timeout(5):
                # LangChain leaves the steps' own streams to the event loop to close.
                while model.state()["a"]["in_flight"]:
                    await asyncio.sleep(0)


class TestWhatItIsMadeOf:
    @pytest.mark.parametrize(
        ("prompt", "given", "sent"),
        [
            ("Say {it}.", "hi", [("user", "Say hi.")]),
            ("Say {it} in {{}}.", {"it": "hi"}, [("user", "Say hi in {}.")]),
            (
                ChatPromptTemplate.from_messages(
                    [("system", "Be brief."), MessagesPlaceholder("past"), ("human", "{it}")]
                ),
                {"past": [("human", "a"), ("ai", "b")], "it": "hi"},
                [("system", "Be brief."), ("user", "a"), ("assistant", "b"), ("user", "hi")],
            ),
            (RunnableLambda(str.upper), "hi", [("user", "HI")]),
        ],
        ids=["a template", "with braces", "a chat prompt", "any runnable"],
    )
    def test_a_prompt_is_a_template_or_langchains_own(self, prompt, given, sent):
        """Both are filled the way LangChain does it."""
        with FakeServer({"a": "ok"}) as server:
            fallback_chain(prompt, build_chat_model(server.spec())).invoke(given)
            (received,) = server.received("a")
        assert [(message["role"], message["content"]) for message in received.body["messages"]] == sent

    @pytest.mark.parametrize("output", ["text", "json", Person, StrOutputParser()], ids=str)
    def test_what_is_bound_to_the_model_stays_bound(self, output):
        """Parameters, tags and callbacks of bind and with_config; so does the promise."""
        calls = Calls()
        with FakeServer({"a": "no json", "b": ADA}) as server:
            model = build_chat_model(server.spec(), listeners=[calls])
            bound = model.bind(temperature=0.25, seed=1).with_config(tags=["night"]).bind(seed=2)
            fallback_chain("{it}", bound, output).invoke("x")
            sent = server.received()[-1].body
        assert (sent["temperature"], sent["seed"]) == (0.25, 2)
        assert "night" in calls[0].tags
        assert ("a", "rejected") in calls.attempts[0] or output == "text" or isinstance(output, StrOutputParser)

    def test_a_list_parser_of_langchains_reads_the_reply(self):
        """Any output parser is a form; one that reads anything rejects nothing."""
        with FakeServer({"a": "red, green"}) as server:
            chain = fallback_chain("{it}", build_chat_model(server.spec()), CommaSeparatedListOutputParser())
            assert chain.invoke("x") == ["red", "green"]

    @pytest.mark.parametrize(
        ("wrong", "kind", "told"),
        [
            ({"prompt": ["{it}"]}, TypeError, "a template text or a prompt of LangChain's, not list"),
            ({"output": "jsn"}, ValueError, "did you mean 'json'"),
            ({"output": 5}, TypeError, "'text', 'json', a schema or an output parser, not 5"),
            ({"model": RunnableLambda(str)}, TypeError, "RunnableLambda cannot fall back on a reply"),
        ],
    )
    def test_what_is_none_of_this_is_refused_at_once(self, wrong, kind, told):
        """With what was given and what would do."""
        with FakeServer({"a": "ok"}) as server:
            parts = {"prompt": "{it}", "model": build_chat_model(server.spec()), "output": "text"} | wrong
            with pytest.raises(kind, match=told):
                fallback_chain(**parts)


class TestInLangChain:
    @pytest.mark.parametrize("mode", MODES)
    @pytest.mark.parametrize("way", CHEAP)
    async def test_the_chain_of_a_call_may_be_chosen(self, way, mode):
        """By a word, a config or `with_chain`; without any the declared chain answers, before and after."""
        chosen, options = CHEAP[way]
        with FakeServer({"a": "[1]", "b": "[2]"}) as server:
            pick = build_runnables(declared(server, GOOD_OR_CHEAP, pick={"prompt": "{it}", "output": "json"}))["pick"]
            assert await answer(pick, mode) == [1]
            assert await answer(chosen(pick), mode, **options) == [2]
            assert await answer(chosen(pick) | RunnableLambda(repr), mode, **options) == "[2]"
            assert await answer(pick, mode) == [1]

    @pytest.mark.parametrize("mode", MODES)
    @pytest.mark.parametrize(
        "options", [{"chain": "chaep"}, {"config": {"configurable": {"llm_fallback_chain": "chaep"}}}]
    )
    async def test_a_chain_that_there_is_not_is_refused_with_the_nearest(self, options, mode):
        """As by the model itself."""
        with FakeServer({"a": "[1]", "b": "[2]"}) as server:
            say = build_runnables(declared(server, GOOD_OR_CHEAP, say={"prompt": "{it}"}))["say"]
            with pytest.raises(ValueError, match="no chain is called 'chaep'; did you mean 'cheap'"):
                await answer(say, mode, **options)
            with pytest.raises(ValueError, match="no chain is called 'chaep'; did you mean 'cheap'"):
                say.with_chain("chaep")

    def test_the_nearer_choice_holds(self):
        """A call's word before what is bound, what is bound before a config, a config before the runnable's own."""
        with FakeServer({"a": "one", "b": "two", "c": "three"}) as server:
            chains = {"good": ["a"], "cheap": ["b"], "other": ["c"]}
            say = build_runnables(declared(server, chains, say={"prompt": "{it}"}))["say"]
            other = {"configurable": {"chain": "other"}}
            assert say.with_chain("cheap").invoke("x", other) == "three"
            assert say.bind(chain="cheap").invoke("x", other) == "two"
            assert say.bind(chain="cheap").invoke("x", other, chain="good") == "one"
            assert say.bind(chain="cheap").with_chain("other").invoke("x") == "three"
            assert say.with_config(other).with_chain("cheap").invoke("x") == "two"

    def test_on_another_chain_it_keeps_form_state_and_what_is_bound(self):
        """Also where the model was bound before, and where the runnable is repeated."""
        with FakeServer({"a": Fail(401), "b": ["no json", ADA, ADA], "c": ADA}) as server:
            spec = declared(server, {"good": ["a", "c"], "cheap": ["a", "b", "c"]})
            model = build_chat_model(spec)
            who = fallback_chain("{it}", model.bind(temperature=0.5), "json").with_config(tags=["night"])
            for on_cheap in (who.with_chain("cheap"), who.with_retry().with_chain("cheap")):
                assert on_cheap.invoke("x") == {"name": "Ada", "age": 36}
                assert on_cheap.config["tags"] == ["night"]
            assert [one.body["temperature"] for one in server.received("b")] == [0.5, 0.5]
            assert len(server.received("a")) == len(server.received("c")) == 1

    @pytest.mark.parametrize("mode", MODES)
    async def test_what_a_call_says_beside_its_input_is_said_to_the_model(self, mode):
        """Over what was bound, and under the same rules as a call of the model."""
        with FakeServer({"a": "ok"}) as server:
            chain = fallback_chain("{it}", build_chat_model(server.spec()).bind(temperature=0.5, seed=1))
            await answer(chain, mode, temperature=0.25, stop=["."])
            sent = server.received()[0].body
            assert (sent["temperature"], sent["seed"], sent["stop"]) == (0.25, 1, ["."])
            with pytest.raises(SpecError, match="api_key"):
                await answer(chain, mode, api_key="k")

    async def test_a_prompt_that_asks_a_model_itself_is_told_nothing(self):
        """The words are for the model that answers."""
        with FakeServer({"a": "one", "b": "two"}) as server:
            model = build_chat_model(declared(server, GOOD_OR_CHEAP))
            prompt = ChatPromptTemplate.from_template("{it}") | model | StrOutputParser()
            assert fallback_chain(prompt, model).invoke("x", chain="cheap") == "two"
            assert [one.body["messages"][0]["content"] for one in server.received()] == ["x", "one"]

    def test_a_batch_with_a_word_keeps_its_order_and_returns_its_errors(self):
        """As LangChain's batches do."""
        with FakeServer({"a": Fail(400), "b": ["one", Fail(400), "three"]}) as server:
            model = build_chat_model(declared(server, GOOD_OR_CHEAP), max_retries=0)
            said = fallback_chain("{it}", model).batch(
                ["x"] * 3, {"max_concurrency": 1}, return_exceptions=True, chain="cheap"
            )
            indexed = dict(fallback_chain("{it}", model).batch_as_completed(["x"] * 2, chain="cheap"))
        assert (said[0], said[2]) == ("one", "three")
        assert isinstance(said[1], ChainExhausted)
        assert set(indexed) == {0, 1}

    async def test_it_looks_like_the_sequence_it_is(self):
        """Names, schemas and graph are those of prompt, model and parser in a row."""
        with FakeServer({"a": ADA}) as server:
            own = build_runnables(declared(server, say={"prompt": "{it}"}))["say"]
            plain = RunnableSequence(*own.steps, name="say")
        assert own.get_name() == "say"
        for schema in ("get_input_jsonschema", "get_output_jsonschema"):
            assert getattr(own, schema)() == getattr(plain, schema)()
        assert own.config_schema().model_json_schema() == plain.config_schema().model_json_schema()
        assert own.get_graph().draw_mermaid() == plain.get_graph().draw_mermaid()
        assert own.get_prompts() == plain.get_prompts()

    async def test_a_batch_may_choose_for_each_input(self):
        """Each config holds for its own call."""
        with FakeServer({"a": "one", "b": "two"}) as server:
            own = build_runnables(declared(server, {"good": ["a"], "cheap": ["b"]}, say={"prompt": "{it}"}))
            configs = [{"configurable": {"chain": name}} for name in ("cheap", "good", "cheap")]
            assert own["say"].batch(["x"] * 3, configs) == ["two", "one", "two"]
            assert await own["say"].abatch(["x"] * 3, configs) == ["two", "one", "two"]

    async def test_side_by_side_in_a_runnable_parallel(self):
        """Each by its own chain, form and fallback."""
        with FakeServer({"a": Fail(500), "b": ADA}) as server:
            own = build_runnables(
                declared(server, who={"prompt": "{it}", "output": "json"}, say={"prompt": "{it}", "output": "text"})
            )
            both = RunnableParallel(who=own["who"], say=own["say"])
            assert both.invoke("x") == await both.ainvoke("x") == {"who": {"name": "Ada", "age": 36}, "say": ADA}

    async def test_side_by_side_on_two_chains(self):
        """A RunnableParallel hands on no words, so they are bound to the one that is meant; a config is for all."""
        with FakeServer({"a": "one", "b": "two"}) as server:
            say = build_runnables(declared(server, GOOD_OR_CHEAP, say={"prompt": "{it}"}))["say"]
            both = RunnableParallel(usual=say, cheap=say.bind(chain="cheap"), other=say.with_chain("cheap"))
            assert both.invoke("x") == await both.ainvoke("x") == {"usual": "one", "cheap": "two", "other": "two"}
            assert both.invoke("x", TO_CHEAP) == {"usual": "two", "cheap": "two", "other": "two"}

    async def test_as_a_node_of_a_graph(self):
        """The graph's own config reaches it, also with a thread's id beside the chain."""
        with FakeServer({"a": Fail(503), "b": "Bonjour.", "c": "Salut."}) as server:
            chains = {"good": ["a", "b"], "cheap": ["c"]}
            say = build_runnables(declared(server, chains, say={"prompt": "{it}"}))["say"]
            graph = StateGraph(dict)
            graph.add_node("say", RunnableLambda(lambda state: {"it": state["it"]}) | {"said": say})
            graph.add_edge(START, "say")
            graph.add_edge("say", END)
            built = graph.compile()
            assert built.invoke({"it": "hello"}) == {"said": "Bonjour."}
            there = {"configurable": {"thread_id": "1", "chain": "cheap"}}
            assert await built.ainvoke({"it": "hello"}, there) == {"said": "Salut."}

    async def test_on_a_chain_of_its_own_as_a_node_of_a_graph(self):
        """It is a node itself, and each way to choose leaves it one."""
        with FakeServer({"a": '{"it": "one"}', "b": '{"it": "two"}'}) as server:
            pick = build_runnables(declared(server, GOOD_OR_CHEAP, pick={"prompt": "{it}", "output": "json"}))["pick"]
            for node in (pick.with_chain("cheap"), pick.bind(chain="cheap"), pick.with_config(TO_CHEAP)):
                graph = StateGraph(Told)
                graph.add_node("pick", node)
                graph.add_edge(START, "pick")
                graph.add_edge("pick", END)
                built = graph.compile()
                assert built.invoke({"it": "x"}) == await built.ainvoke({"it": "x"}) == {"it": "two"}

    async def test_its_events_carry_its_name_and_the_fallback(self):
        """In astream_events a declared runnable is called what the spec calls it."""
        with FakeServer({"a": "no json", "b": ADA}) as server:
            who = build_runnables(declared(server, who={"prompt": "{it}", "output": "json"}))["who"]
            events = [event async for event in who.astream_events("x", version="v2")]
        assert (events[0]["event"], events[0]["name"]) == ("on_chain_start", "who")
        assert [event["name"] for event in events if event["event"] == "on_custom_event"] == [
            "llm_fallback.attempt_failed",
            "llm_fallback.fell_back",
        ]
        assert events[-1]["data"]["output"] == {"name": "Ada", "age": 36}

    async def test_it_keeps_its_name_and_its_words_as_a_step_of_another_sequence(self):
        """In astream_events it is a run of its own there, and the chain chosen is the one asked."""
        with FakeServer({"a": "one", "b": "two"}) as server:
            say = build_runnables(declared(server, GOOD_OR_CHEAP, say={"prompt": "{it}"}))["say"]
            events = [event async for event in (say | str.upper).astream_events("x", version="v2", chain="cheap")]
        begun = [event["name"] for event in events if event["event"].endswith("_start")]
        assert begun == [
            *("RunnableSequence", "say", "ChatPromptTemplate", "FallbackChatModel", "StrOutputParser", "upper")
        ]
        assert events[-1]["data"]["output"] == "TWO"

    def test_judging_leaves_no_trace(self):
        """The parser's own step is the only run of it that handlers see."""
        runs: list[str] = []

        class Seen(BaseCallbackHandler):
            def on_chain_start(self, serialized, inputs, *, name=None, **kwargs):
                runs.append(name or "")

        with FakeServer({"a": "no json", "b": ADA}) as server:
            chain = fallback_chain("{it}", build_chat_model(server.spec()), "json")
            chain.invoke("x", {"callbacks": [Seen()]})
        assert runs == ["FallbackSequence", "ChatPromptTemplate", "JsonOutputParser"]


class TestDeclared:
    def test_all_share_one_model_and_its_state(self):
        """A breaker that one opened is open for the other."""
        with FakeServer({"a": Fail(401), "b": ADA}) as server:
            own = build_runnables(declared(server, who={"prompt": "{it}", "output": "json"}, say={"prompt": "{it}"}))
            own["say"].invoke("x")
            own["who"].invoke("x")
            assert len(server.received("a")) == 1

    def test_over_a_model_they_are_that_models(self):
        """Its listeners hear them, its parameters go along, and closing it closes them."""
        calls = Calls()
        with FakeServer({"a": ADA}) as server:
            spec = declared(server, who={"prompt": "{it}", "output": "json"})
            with build_chat_model(spec, temperature=0.5, listeners=[calls]) as model:
                own = build_runnables(model)
                own["who"].invoke("x")
            assert server.received("a")[0].body["temperature"] == 0.5
            with pytest.raises(RuntimeError, match="closed"):
                own["who"].invoke("x")
        assert len(calls) == 1

    def test_with_the_last_of_them_goes_the_model(self):
        """Connections are held as long as one runnable is, and no longer."""
        with FakeServer({"a": ADA}) as server:
            own = build_runnables(declared(server, who={"prompt": "{it}"}, say={"prompt": "{it}"}))
            runtime = weakref.ref(own["who"].steps[1].runtime)
            own["who"].invoke("x")
            del own["who"]
            gc.collect()
            assert own["say"].invoke("x") == ADA
            own.clear()
            gc.collect()
            assert runtime() is None

    def test_a_form_of_ones_own_is_named_by_its_import_path(self, monkeypatch):
        """Also one inside a class; a TypedDict or a parser does as well as a model."""
        forms = ModuleType("forms")
        forms.Person, forms.Town, forms.parser = Person, Town, CommaSeparatedListOutputParser()
        forms.Inner = type("Inner", (), {"Person": Person})
        monkeypatch.setitem(sys.modules, "forms", forms)
        with FakeServer({"a": ADA}) as server:
            paths = {"one": "forms:Person", "two": "forms:Inner.Person", "four": "forms:parser"}
            own = build_runnables(
                declared(server, **{name: {"prompt": "{it}", "output": path} for name, path in paths.items()})
            )
            assert own["one"].invoke("x") == own["two"].invoke("x") == Person(name="Ada", age=36)
            assert own["four"].invoke("x") == ['{"name": "Ada"', "age: 36}"]

    def test_outputs_that_are_none_are_told_all_at_once(self, tmp_path):
        """With path, file and line, before anything is sent."""
        file = tmp_path / "spec.yaml"
        file.write_text(
            "deployments: {a: {model: openai/gpt-4.1, api_key: k}}\n"
            "chains: {main: {tiers: [a]}}\n"
            "runnables:\n"
            "  one: {prompt: hi, output: 'nowhere.at_all:Form'}\n"
            "  two: {prompt: hi, output: 'json:Form'}\n"
            "  three:\n"
            "    prompt: hi\n"
            "    output: 'json:loads'\n"
        )
        with pytest.raises(SpecError) as caught:
            build_runnables(file)
        assert [(mistake.path, mistake.line) for mistake in caught.value.mistakes] == [
            ("runnables.one.output", 4),
            ("runnables.two.output", 5),
            ("runnables.three.output", 8),
        ]
        told = [str(mistake).partition(": ")[2] for mistake in caught.value.mistakes]
        assert told[0].startswith("'nowhere.at_all:Form' cannot be imported (No module named 'nowhere')")
        assert told[1].startswith("'json:Form' cannot be imported (module 'json' has no attribute 'Form')")
        assert told[2].startswith("'json:loads' is no form a reply could have; name a pydantic model")

    def test_a_spec_without_any_has_none(self):
        """Nothing is made up."""
        with FakeServer({"a": "hi"}) as server:
            assert build_runnables(server.spec()) == {}
