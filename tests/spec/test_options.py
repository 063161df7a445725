"""The keyword arguments of `build_chat_model`: their types are what is taken, and they hold for every chain."""

from __future__ import annotations

import importlib.util
import pydoc
from inspect import signature
from pathlib import Path

import pytest

from llm_fallback import FallbackChatModel, SpecError, build_chat_model, load_spec
from llm_fallback.spec import ModelOptions
from llm_fallback.spec.entries import ChainSettings
from llm_fallback.spec.model import Spec
from llm_fallback.spec.overrides import SHARED, configure
from llm_fallback.spec.typed_dicts import ChainSettingsDict, SpecDict
from llm_fallback.testing import FakeChatModel, Stall, assert_attempts, fake_chat_model

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
    line = next(line for line in pydoc.plain(pydoc.render_doc(kind)).splitlines() if f" {kind.__name__}(*" in line)
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
