"""The keyword arguments of `build_chat_model`: their types are what is taken, and they hold for every chain."""

from __future__ import annotations

import importlib.util
import pickle
import pydoc
import re
from inspect import signature
from pathlib import Path

import pytest

from llm_fallback import (
    BudgetCallbackHandler,
    CostCallbackHandler,
    FallbackChatModel,
    LatencyCallbackHandler,
    SpecError,
    build_chat_model,
    load_spec,
)
from llm_fallback.spec import ModelOptions
from llm_fallback.spec.entries import ChainSettings
from llm_fallback.spec.model import Spec
from llm_fallback.spec.overrides import SHARED, configure
from llm_fallback.spec.typed_dicts import ChainSettingsDict, SpecDict
from llm_fallback.testing import FakeChatModel, Stall, assert_attempts, fake_chat_model
from tests.asking import MODES, ask

ROOT = Path(__file__).parents[2]
SPEC = {
    "deployments": {name: {"model": f"openai/{name}", "api_key": "sk-none"} for name in ("a", "b")},
    "chains": {
        "first": {"tiers": ["a"], "timeouts": {"total_s": 9, "idle_s": 3}},
        "second": {"tiers": ["b"]},
    },
    "default_chain": "first",
}


def test_the_types_of_a_spec_are_made_from_its_models():
    """spec/typed_dicts.py is what docs/generate_types.py writes: a key has its type as soon as it is a field."""
    location = importlib.util.spec_from_file_location("generate_types", ROOT / "docs/generate_types.py")
    generate_types = importlib.util.module_from_spec(location)
    location.loader.exec_module(generate_types)
    assert generate_types.MODULE.read_text(encoding="utf-8") == generate_types.module(), "run `make docs`"


def test_a_typed_dict_has_the_keys_of_its_model():
    """Also by what Python itself knows of them."""
    assert set(SpecDict.__annotations__) == set(Spec.model_fields)
    assert set(ChainSettingsDict.__annotations__) == set(ChainSettings.model_fields)


def test_every_option_is_taken_and_none_of_them_is_refused():
    """What type checkers let pass does not fail as a model is built, but for its value."""
    assert not set(ModelOptions.__annotations__) & set(SHARED)
    for name in ModelOptions.__annotations__:
        configure(SPEC, {name: None})


@pytest.mark.parametrize("kind", [FallbackChatModel, FakeChatModel])
def test_help_shows_what_the_builder_takes_and_nothing_it_refuses(kind):
    """Not the fields of the classes below: `help(FallbackChatModel)` is where people look first."""
    shown = set(signature(kind).parameters)
    assert set(ModelOptions.__annotations__) <= shown
    assert shown - set(ModelOptions.__annotations__) <= {"spec", "chain", "listeners", "scripts", "clock"}
    lines = [line.removeprefix(" |").strip() for line in pydoc.plain(pydoc.render_doc(kind)).splitlines()]
    start = next(at for at, line in enumerate(lines) if line.startswith(f"{kind.__name__}("))
    # From Python 3.13 on a line for each.
    end = start + 1 if "," in lines[start] else next(at for at in range(start, len(lines)) if lines[at][:1] == ")")
    line = " ".join(lines[start:end])
    assert "temperature: float | None = ..., " in line
    assert not [word for word in (*SHARED, "openai_api_key", "gpt-3.5-turbo", "router", "runtime") if word in line]


class TestForEveryChain:
    """Who builds a model with `timeout=5` means its calls, whichever chain they ask."""

    def built(self, **options):
        return fake_chat_model({"a": Stall(), "b": Stall()}, spec=SPEC, **options)

    def limits(self, model):
        return {chain: model.explain(chain)["max_seconds"] for chain in ("first", "second")}

    @pytest.mark.parametrize("options", [{"timeout": 5}, {"timeouts": {"total_s": 5}}])
    def test_a_setting_given_at_build_holds_for_each(self, options):
        """By LangChain's word or by ours; the rest of each chain's own settings stays."""
        model = self.built(**options)
        assert self.limits(model) == {"first": 5, "second": 5}
        assert model.runtime.spec.timeouts("first").idle_s == 3

    @pytest.mark.parametrize(
        "ask",
        [
            lambda model: model.invoke("hi", chain="second"),
            lambda model: model.invoke("hi", {"configurable": {"chain": "second"}}),
            lambda model: model.with_chain("second").invoke("hi"),
            lambda model: model.bind(chain="second").invoke("hi"),
        ],
        ids=["the call", "its config", "with_chain", "bind"],
    )
    def test_it_holds_however_the_other_chain_is_asked(self, ask):
        """The call ends after its five seconds, and after one more request instead of two."""
        model = self.built(timeouts={"total_s": 5, "attempt_s": 1}, max_retries=1)
        with pytest.raises(TimeoutError) as caught:
            ask(model)
        assert_attempts(caught.value, "b: timeout", "b: timeout")
        assert model.clock.now() <= 5

    def test_the_call_wins_over_the_build(self):
        """As for every other word."""
        model = self.built(timeout=50)
        with pytest.raises(TimeoutError):
            model.invoke("hi", timeout=2, chain="second")
        assert model.clock.now() == pytest.approx(2)

    def test_it_holds_after_a_reload(self):
        """A new spec changes what the spec says, not what the program says."""
        model = self.built(timeout=5)
        model.reload({**SPEC, "chains": {**SPEC["chains"], "third": {"tiers": ["a"]}}})
        assert {**self.limits(model), "third": model.explain("third")["max_seconds"]} == {
            "first": 5,
            "second": 5,
            "third": 5,
        }

    def test_a_setting_that_does_not_suit_one_chain_names_it(self):
        """Although another one is asked by default."""
        spec = {**SPEC, "chains": {**SPEC["chains"], "second": {"tiers": ["b"], "on_stream_break": "raise"}}}
        with pytest.raises(SpecError, match=r"build_chat_model\(chains.second.on_stream_break\): cannot be 'raise'"):
            fake_chat_model(spec=spec, accept=bool)

    def test_the_spec_itself_stays_as_it_is(self):
        """It may serve for other models."""
        spec = load_spec(SPEC)
        build_chat_model(spec, timeout=5).close()
        assert spec.timeouts("first").total_s == 9


ROUTER_ROW = {"model_name": "gpt", "litellm_params": {"model": "openai/gpt-4.1", "api_key": "sk-none"}}


class TestWrongValues:
    """An error of ours, before anything is built or sent, that names argument, value and remedy."""

    @pytest.mark.parametrize(
        ("options", "told"),
        [
            ({"temperature": "hot"}, "build_chat_model(temperature): must be a number, got 'hot'"),
            ({"max_tokens": "many"}, "build_chat_model(max_tokens): must be a whole number, got 'many'"),
            ({"stop": 3}, "build_chat_model(stop): must be a string or a list, got 3"),
            ({"tool_choice": False}, "build_chat_model(tool_choice): must be a string or a mapping, got false"),
            ({"listeners": print}, "build_chat_model(listeners): must be a list of functions, got a function; "),
            ({"listeners": [3]}, "build_chat_model(listeners): must be a function, got 3"),
            ({"tags": "night"}, "build_chat_model(tags): must be a list, got 'night'"),
            ({"retries": 1}, "build_chat_model(retries): must be a mapping, got 1; write {max: 1}"),
            ({"timeouts": 5}, "build_chat_model(timeouts): must be a mapping, got 5; write {total_s: 5}"),
            ({"hedge": 2}, "build_chat_model(hedge): must be a mapping, got 2; write {after_s: 2}"),
            ({"timeout": "soon"}, "timeout: must be a number of seconds greater than 0, got 'soon'"),
            ({"breaker": {}}, "breaker: is no setting, model field or request parameter; in a spec it is "),
            ({"tiers": ["a"]}, "tiers: is no setting, model field or request parameter; in a spec it is "),
            ({"temprature": 0}, "temprature: is no setting, model field or request parameter; did you mean"),
        ],
    )
    def test_of_an_argument_of_the_builder(self, options, told):
        """The real model and the fake say the same."""
        for build in (build_chat_model, lambda spec, **options: fake_chat_model(spec=spec, **options)):
            with pytest.raises(SpecError) as caught:
                build(SPEC, **options)
            assert told in str(caught.value)

    def test_a_deployment_s_timeout_is_one_of_its_attempts(self):
        """So the remedy is another key than a chain's."""
        spec = {**SPEC, "deployments": {**SPEC["deployments"], "a": {"model": "openai/a", "timeouts": 5}}}
        with pytest.raises(SpecError, match=r"deployments.a.timeouts: must be a mapping, got 5; write {attempt_s: 5}"):
            load_spec(spec)

    @pytest.mark.parametrize(
        ("source", "told"),
        [
            ([{"model": "openai/gpt-4.1"}], "a list names models, and this one has a mapping; write {'deployments': "),
            ([ROUTER_ROW], "a list names models, and this one has a mapping; write {'model_list': [...]} around it"),
            ([fake_chat_model({"a": "hi"})], "a list names models, and this one has a chat model, FakeChatModel; name"),
            (fake_chat_model({"a": "hi"}), "a spec cannot be read from a chat model, FakeChatModel; name what it asks"),
            (None, "a spec cannot be read from NoneType; give a path, a mapping or a list of models"),
            ("gpt-4.1", "for a model write it as a list, with its provider: ['openai/gpt-4.1']"),
            ("openai/gpt-4.1", "for a model write it as a list: ['openai/gpt-4.1']"),
        ],
    )
    def test_of_a_source(self, source, told):
        """What people have in their hands when they come from elsewhere."""
        for read in (build_chat_model, load_spec):
            with pytest.raises(SpecError) as caught:
                read(source)
            assert told in str(caught.value)

    def test_a_router_s_deployments_are_what_the_error_says_to_give(self):
        """And they are a spec."""
        import litellm

        router = litellm.Router(model_list=[ROUTER_ROW])
        with pytest.raises(SpecError, match=r"from Router; give its deployments: {'model_list': router.model_list}"):
            build_chat_model(router)
        with build_chat_model({"model_list": router.model_list}) as model:
            assert model.explain()["chain"] == "gpt"

    @pytest.mark.parametrize(
        ("words", "told"),
        [
            ({"timeout": "soon"}, "timeout: must be a number of seconds greater than 0, got 'soon'"),
            ({"timeout": 0}, "timeout: must be a number of seconds greater than 0, got 0"),
            ({"timeout": 10**400}, "timeout: must be a number of seconds greater than 0, got 1000"),
            ({"timeout": True}, "timeout: must be a number of seconds greater than 0, got True"),
            ({"max_retries": "two"}, "max_retries: must be a whole number, at least 0, got 'two'"),
            ({"max_retries": 1.5}, "max_retries: must be a whole number, at least 0, got 1.5"),
            ({"tool_choice": False}, "tool_choice: no server knows False; write 'none' for no tool, or leave it out"),
            ({"timeouts": 3}, "timeouts: is a setting of the chain and not of a call"),
            ({"breaker": {}}, "breaker: is a setting of a deployment and not of a call"),
        ],
    )
    @pytest.mark.parametrize("mode", MODES)
    async def test_of_a_call(self, words, told, mode):
        """However it is asked; nobody gets a request."""
        model = fake_chat_model({"a": "hi"})
        with pytest.raises(SpecError) as caught:
            await ask(model, mode, **words)
        assert told in str(caught.value)
        assert model.received() == []

    @pytest.mark.parametrize(
        ("mistaken", "place"),
        [
            (lambda model: model.invoke("hi", timeout="soon"), "arguments"),
            (lambda model: model.invoke("hi", zones="nowhere"), "arguments"),
            (lambda model: model.open_breaker("a", -1), "arguments"),
            (lambda model: model.reset_breaker("nobody"), "arguments"),
            (lambda model: fake_chat_model(temperature="hot"), "arguments"),
            (lambda model: fake_chat_model(timeouts=5), "arguments"),
            (lambda model: fake_chat_model({"nobody": "hi"}, spec=SPEC), "arguments"),
            (lambda model: build_chat_model(SPEC, chain="nobody"), "arguments"),
            (lambda model: build_chat_model(7), "arguments"),
            (lambda model: load_spec({"chain": {}}), "spec"),
            (lambda model: build_chat_model({"chains": {"c": {"tiers": ["nobody"]}}}), "spec"),
            (lambda model: model.reload({"chains": {}}), "spec"),
        ],
    )
    def test_is_said_to_be_where_it_is(self, mistaken, place):
        """In the arguments of a call, or in the spec; also once pickled."""
        with pytest.raises(SpecError) as caught:
            mistaken(fake_chat_model({"a": "hi"}))
        for error in (caught.value, pickle.loads(pickle.dumps(caught.value))):
            assert re.match(rf"[0-9]+ mistakes? in the {place}:\n  ", str(error))
            assert error.place == place

    def test_of_a_bound_tool_choice(self):
        """`bind_tools` hands it on to the call."""
        model = fake_chat_model({"a": "hi"}).bind_tools([_tool], tool_choice=False)
        with pytest.raises(SpecError, match="tool_choice: no server knows False"):
            model.invoke("hi")

    def test_of_a_word_of_a_call_that_looks_misspelt(self, caplog):
        """It is sent, for a server may know it, and told once; a word like no other is not told."""
        model = fake_chat_model({"a": "hi"})
        for _ in range(2):
            model.invoke("hi", temperatur=0, min_tokens=3)
        assert [record.getMessage() for record in caplog.records if record.levelname == "WARNING"] == [
            "'temperatur' is no word of a call that is known; did you mean 'temperature'? It is sent as it is"
        ]

    def test_of_metadata_keys(self):
        """In every place that names them."""
        for make in (
            lambda: CostCallbackHandler(by=3),
            lambda: LatencyCallbackHandler(by=[3]),
            lambda: BudgetCallbackHandler(1, per=3),
        ):
            with pytest.raises(ValueError, match="must name keys of config"):
                make()


def _tool(city: str) -> str:
    """The weather of a city."""
    return city


def test_a_model_s_max_retries_are_its_chain_s():
    """ChatLiteLLM has a field of that name, with a default of its own."""
    with build_chat_model(SPEC, max_retries=5) as model:
        assert model.max_retries == 5
    with build_chat_model({**SPEC, "defaults": {"retries": {"max": 3}}}) as model:
        assert (model.max_retries, model.with_chain("second").max_retries, model.model_copy().max_retries) == (3, 3, 3)


def test_a_closed_model_is_not_reloaded():
    """It says so, as it does when it is asked."""
    model = fake_chat_model({"a": "hi"})
    model.close()
    with pytest.raises(RuntimeError, match="this model is closed; build another with build_chat_model"):
        model.reload(SPEC)
