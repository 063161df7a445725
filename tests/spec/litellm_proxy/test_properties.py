"""What holds for every configuration and every spec, whatever is in them."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llm_fallback import SpecError, load_spec
from llm_fallback.spec import Spec
from llm_fallback.spec.dump import dump_spec
from llm_fallback.spec.litellm_proxy.words import (
    ABILITIES,
    ALREADY_SO,
    NOT_OF_A_REQUEST,
    PRICES,
    ROUTE_BY_KEY,
    SETTINGS,
    convert_references,
)
from llm_fallback.spec.litellm_proxy.write import write_config
from llm_fallback.spec.variables import resolve
from tests.spec.litellm_proxy.specs import carried, specs
from tests.thinning import examples

scalars = (
    st.none() | st.booleans() | st.integers(-3, 900) | st.sampled_from([0.5, -1.0, "", "60", "a", "os.environ/X", "${"])
)
junk = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from("ab*"), inner, max_size=2),
    max_leaves=4,
)
MODELS = st.sampled_from(
    ["gpt-4o", "openai/gpt-4o", "hosted_vllm/llama", "litellm_proxy/x", "*", "openllm/x", "a:b", "/"]
)
ADDRESSES = st.sampled_from(["http://gpu:8000", "http://gpu:8000/v1", "os.environ/BASE", "your-base", 8000, None])
SETTING_WORDS = (
    "num_retries",
    "allowed_fails",
    "cooldown_time",
    "disable_cooldowns",
    "default_fallbacks",
    "retry_after",
)


def words(*known: str) -> st.SearchStrategy[dict[str, Any]]:
    return st.dictionaries(st.sampled_from(known), junk, max_size=5)


@st.composite
def sections(draw: st.DrawFn) -> Any:
    more = ("request_timeout", "model_group_alias", "default_litellm_params", "max_fallbacks", "cache")
    return draw(junk | words(*SETTING_WORDS, *more, *ALREADY_SO, *ROUTE_BY_KEY, *SETTINGS))


@st.composite
def rows(draw: st.DrawFn) -> Any:
    params = draw(words(*SETTINGS, *PRICES, *sorted(NOT_OF_A_REQUEST), "api_key", "temperature", "stream", "order"))
    params |= draw(st.fixed_dictionaries({}, optional={"model": MODELS, "api_base": ADDRESSES}))
    info = draw(words(*PRICES, *ABILITIES, "id", "mode", "base_model", "max_input_tokens", "backend", "allowed_fails"))
    row = {"model_name": draw(st.sampled_from(["a", "b", "a/2", 7, ""])), "litellm_params": params, "model_info": info}
    return draw(st.just(row) | junk)


configs = st.fixed_dictionaries(
    {"model_list": st.lists(rows(), max_size=4)},
    optional={"router_settings": sections(), "litellm_settings": sections(), "general_settings": junk, "other": junk},
)


@given(configs)
@settings(max_examples=examples(150), deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_a_configuration_is_never_an_error_as_long_as_one_model_of_it_can_be_asked(config):
    """Whatever is written in it: what a spec would refuse is listed with the reason."""
    fine = {"model_name": "fine", "litellm_params": {"model": "openai/gpt-4.1"}}
    spec = load_spec({**config, "model_list": [*config["model_list"], fine]})
    assert spec.chains["fine"].tiers[0] == ("fine",)


@given(configs)
@settings(max_examples=examples(100), deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_a_configuration_without_such_a_model_says_why(config):
    """The only error there is names the list, and each row with what is wrong with it."""
    hopeless = {"model_name": "x/*", "litellm_params": {"model": "x/*"}}
    rows = [hopeless if _may_be_asked(row) else row for row in config["model_list"]]
    with pytest.raises(SpecError) as caught:
        load_spec({**config, "model_list": rows})
    paths = [mistake.path for mistake in caught.value.mistakes]
    assert paths[0] == "model_list"
    assert {f"model_list[{index}]" for index in range(len(rows))} <= set(paths)


def _may_be_asked(row: Any) -> bool:
    try:
        load_spec({"model_list": [row]})
    except SpecError:
        return False
    return True


@given(st.text(alphabet="${}A:-/", max_size=12))
@settings(deadline=None)
def test_a_text_of_a_configuration_stays_what_it_is(text):
    """Whatever dollars are in it: only `os.environ/NAME` is a variable there."""
    assert resolve(convert_references(text), {}) == text


@given(specs())
@settings(max_examples=examples(150), deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_a_spec_comes_back_from_a_configuration_as_it_was(spec):
    """The same chains of the same deployments, asked in the same way, as far as LiteLLM has words for it."""
    config, _ = write_config(spec)
    if config["model_list"]:
        assert carried(load_spec(config)) == carried(spec)


@given(specs())
@settings(max_examples=examples(100), deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_a_spec_comes_back_from_its_own_file_as_it_was(spec):
    """Nothing is lost where there is nothing secret in it."""
    data, notes = dump_spec(spec)
    assert (Spec.model_validate(data), notes) == (spec, ())
