"""litellm's own lists of words: each of them has a place in a spec or is listed, today's and tomorrow's."""

from __future__ import annotations

import inspect
from typing import Any

import litellm
import pytest
from litellm import Router
from litellm.proxy._types import ConfigGeneralSettings
from litellm.types.router import LiteLLM_Params, ModelInfo

from llm_fallback import load_spec
from llm_fallback.spec.litellm_proxy.words import ALREADY_SO, ROUTE_BY_KEY
from llm_fallback.spec.overrides import REQUEST_PARAMETERS

ROUTER = sorted(set(inspect.signature(Router.__init__).parameters) - {"self", "model_list"})
PARAMS = sorted(set(LiteLLM_Params.model_fields) - {"model"})
SETTINGS = sorted(name for name, value in vars(litellm).items() if name.islower() and not hasattr(value, "__name__"))
INFO = sorted(set(ModelInfo.model_fields) - {"id"})


def changed_by(word: str, value: Any, section: str) -> tuple[bool, bool]:
    """Whether a word changes what is asked, and whether it is listed."""
    row: dict[str, Any] = {"model_name": "a", "litellm_params": {"model": "openai/x"}, "model_info": {}}
    config: dict[str, Any] = {"model_list": [row], "router_settings": {}}
    usual = load_spec(config)
    place = config if section == "router_settings" else row
    place[section] = {**place[section], word: value}
    spec = load_spec(config)
    return spec != usual, any(word in note.path for note in spec.notes)


@pytest.mark.parametrize("word", ROUTER)
def test_every_argument_of_the_router_has_a_place_or_is_listed(word):
    """With a value that is not what is done here anyway."""
    fitting = {"default_fallbacks": ["nobody"], "model_group_alias": {"x": "a"}, "max_fallbacks": -1}
    fitting |= {kind: [{"a": ["b"]}] for kind in ROUTE_BY_KEY}
    fitting |= {"default_litellm_params": {"temperature": 0}, "disable_cooldowns": True}
    value = fitting.get(word, False if word in ALREADY_SO else 7)
    assert any(changed_by(word, value, "router_settings"))


@pytest.mark.parametrize("word", PARAMS)
def test_every_word_of_litellm_params_has_a_place_or_is_listed(word):
    """Or it leaves the row out, which is listed as well."""
    if word == "custom_llm_provider":
        assert changed_by(word, "azure", "litellm_params")[0]
    elif word == "api_base":
        assert changed_by(word, "http://x/v1", "litellm_params")[0]
    else:
        assert any(changed_by(word, 7, "litellm_params"))


@pytest.mark.parametrize("word", INFO)
def test_every_word_of_model_info_has_a_place_or_is_listed(word):
    """Whatever litellm adds to it."""
    assert any(changed_by(word, 7, "model_info"))


@pytest.mark.parametrize(
    ("section", "words"),
    [
        ("router_settings", ROUTER),
        ("litellm_settings", SETTINGS),
        ("litellm_params", [*PARAMS, *sorted(REQUEST_PARAMETERS)]),
        ("model_info", INFO),
        ("general_settings", sorted(ConfigGeneralSettings.model_fields)),
    ],
)
def test_no_word_of_litellm_s_own_is_taken_for_another_misspelt(section, words):
    """However alike some of them are."""
    row: dict[str, Any] = {"model_name": "a", "litellm_params": {"model": "openai/x"}}
    config: dict[str, Any] = {"model_list": [row, {"model_name": "b", "litellm_params": {"model": "openai/x"}}]}
    place = row if section in ("litellm_params", "model_info") else config
    fixed = {"model": "openai/x", "custom_llm_provider": "openai"} if section == "litellm_params" else {}
    place[section] = {**dict.fromkeys(words, 7), **fixed}
    notes = load_spec(config).notes
    assert [note for note in notes if note.severity == "warning" and "did you mean" in note.text] == []
