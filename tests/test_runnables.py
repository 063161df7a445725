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
from langchain_core.runnables import RunnableLambda, RunnableParallel
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
            "the reply does not parse: OutputParserException",
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
    async def test_a_config_chooses_the_chain_of_a_call(self, mode):
        """Bound to the runnable or given with the call; without it the declared chain answers."""
        chains = {"good": ["a"], "cheap": ["b"]}
        with FakeServer({"a": "[1]", "b": "[2]"}) as server:
            own = build_runnables(declared(server, chains, pick={"chain": "good", "prompt": "{it}", "output": "json"}))
            pick, cheap = own["pick"], {"configurable": {"chain": "cheap"}}
            assert await answer(pick, mode) == [1]
            assert await answer(pick.with_config(cheap), mode) == [2]
            assert await answer(pick, mode, config=cheap) == [2]
            with pytest.raises(ValueError, match="no chain is called 'chaep'; did you mean 'cheap'"):
                await answer(pick, mode, config={"configurable": {"chain": "chaep"}})

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

    def test_judging_leaves_no_trace(self):
        """The parser's own step is the only run of it that handlers see."""
        runs: list[str] = []

        class Seen(BaseCallbackHandler):
            def on_chain_start(self, serialized, inputs, *, name=None, **kwargs):
                runs.append(name or "")

        with FakeServer({"a": "no json", "b": ADA}) as server:
            chain = fallback_chain("{it}", build_chat_model(server.spec()), "json")
            chain.invoke("x", {"callbacks": [Seen()]})
        assert runs == ["RunnableSequence", "ChatPromptTemplate", "JsonOutputParser"]


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
            lease = weakref.ref(own["who"].steps[1].lease)
            own["who"].invoke("x")
            del own["who"]
            gc.collect()
            assert own["say"].invoke("x") == ADA
            own.clear()
            gc.collect()
            assert lease() is None

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
