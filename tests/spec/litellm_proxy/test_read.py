"""A proxy's configuration as a spec: what becomes of it, and what is said of the rest."""

from __future__ import annotations

import json
import os
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
import yaml

from llm_fallback import SpecError, build_chat_model, build_router, check, load_spec
from llm_fallback.testing import Fail, FakeServer, assert_attempts

BALANCED = Path(__file__).parents[2] / "data/litellm/balanced.yaml"


def row(group: str, model: str = "openai/gpt-4.1", info: dict[str, Any] | None = None, **params: Any) -> dict[str, Any]:
    """One row of `model_list`."""
    made: dict[str, Any] = {"model_name": group, "litellm_params": {"model": model, **params}}
    return made if info is None else {**made, "model_info": info}


def config(*rows: dict[str, Any], module: dict[str, Any] | None = None, **router: Any) -> dict[str, Any]:
    """A configuration with these rows and settings."""
    made: dict[str, Any] = {"model_list": list(rows), "router_settings": router}
    return made if module is None else {**made, "litellm_settings": module}


def tiers(spec, chain, route="tiers"):
    found = getattr(spec.chains[chain], route)
    return None if found is None else [list(tier) for tier in found]


def noted(spec):
    return {note.path: note.text for note in spec.notes}


class TestAFileAsItIsUsed:
    @pytest.fixture
    def spec(self):
        return load_spec(BALANCED)

    def test_each_model_name_becomes_a_chain_and_the_first_is_the_default(self, spec):
        """In the order of the file; an alias is a chain, too."""
        assert list(spec.chains) == ["gpt-4o", "llama-70b", "claude", "gpt-4"]
        assert spec.default_chain == "gpt-4o"

    def test_fallbacks_are_tiers(self, spec):
        """Those of the group, then those of whom it falls back to; an alias has them as well."""
        expected = [["gpt-4o-1", "gpt-4o-2"], ["llama-a"], ["claude"]]
        assert tiers(spec, "gpt-4o") == tiers(spec, "gpt-4") == expected
        assert tiers(spec, "gpt-4o", "on_context_window") == [["claude"]]
        assert tiers(spec, "gpt-4o", "on_content_policy") is None
        assert tiers(spec, "llama-70b") == [["llama-a"], ["claude"]]

    def test_a_row_is_a_deployment(self, spec):
        """With all it says of model, address, limits, timeouts, price and abilities."""
        assert spec.deployments["llama-a"].given() == {
            "backend": "vllm",
            "model": "meta-llama/Llama-3.3-70B-Instruct",
            "api_base": "http://gpu-a:8000/v1",
            "api_key": spec.deployments["llama-a"].api_key,
            "params": {"temperature": 0.2},
            "limits": spec.limits("llama-a"),
            "price": spec.deployments["llama-a"].price,
            "context_window": 32768,
            "profile": {"tool_calling": True, "image_inputs": False},
            "timeouts": spec.deployments["llama-a"].timeouts,
        }
        assert spec.limits("llama-a").given() == {"max_parallel": 32}
        assert spec.deployments["llama-a"].price.given() == {
            "input_per_million": Decimal("0.2"),
            "output_per_million": Decimal("0.2"),
        }
        assert spec.timeouts("llama-70b", "llama-a").given() == {"attempt_s": 20, "first_token_s": 3}

    def test_settings_are_defaults(self, spec):
        """`router_settings` and `litellm_settings` together."""
        assert spec.retries("claude").max == 3
        assert (spec.breaker("claude").failures, spec.breaker("claude").cooldown_s) == (2, 45)
        assert spec.timeouts("claude", "claude").attempt_s == 30

    def test_whatever_has_no_place_is_listed_with_its_line(self, spec):
        """Nothing is dropped in silence, and nothing is an error."""
        assert [(note.line, note.path) for note in spec.notes] == [
            (12, "model_list[0].model_info.supported_environments"),
            (28, "model_list[2].litellm_params.tags"),
            (41, "model_list[4]"),
            (46, "model_list[5]"),
            (52, "router_settings.routing_strategy"),
            (56, "router_settings.redis_host"),
            (57, "router_settings.redis_password"),
            (64, "litellm_settings.success_callback"),
            (70, "general_settings.alerting"),
        ]
        assert {note.file for note in spec.notes} == {str(BALANCED)}
        assert "is for embedding, not for chat" in noted(spec)["model_list[4]"]
        assert "'anthropic/*' stands for any number of models" in noted(spec)["model_list[5]"]

    def test_check_shows_the_notes_after_its_own_findings(self, spec):
        """Findings of a deployment carry the line of its row."""
        findings = check(spec, environ={})
        notes = [f for f in findings if f.severity == "note"]
        assert [f.path for f in notes] == [note.path for note in spec.notes]
        assert findings[-len(notes) :] == notes
        assert {f.severity for f in findings[: -len(notes)]} == {"warning"}
        warnings = [(finding.line, finding.path) for finding in findings[: -len(notes)]]
        assert warnings == sorted(warnings, key=lambda found: found[0])
        assert [found for found in warnings if found[1].endswith(".api_key")] == [
            (7, "deployments.gpt-4o-1.api_key"),
            (17, "deployments.gpt-4o-2.api_key"),
            (40, "deployments.claude.api_key"),
        ]

    def test_it_may_be_overlaid_like_any_spec(self, spec):
        """The notes stay."""
        changed = load_spec(BALANCED, {"chains": {"claude": {"timeouts": {"total_s": 9}}}})
        assert changed.timeouts("claude").total_s == 9
        assert len(changed.notes) == len(spec.notes)

    def test_two_specs_are_equal_whatever_was_noted(self, spec):
        """What a source said besides does not change what is asked."""
        bare = yaml.safe_load(BALANCED.read_text(encoding="utf-8"))
        del bare["general_settings"]["alerting"]
        assert load_spec(bare) == spec

    def test_json_is_read_as_well(self, spec, tmp_path):
        """Whatever the format, it is the same configuration."""
        path = tmp_path / "config.json"
        path.write_text(json.dumps(yaml.safe_load(BALANCED.read_text(encoding="utf-8"))), encoding="utf-8")
        assert load_spec(path) == spec


class TestFallbacks:
    def test_references_are_followed_in_the_order_of_litellm(self):
        """When a falls back to b and c, and b to d, it is a, b, d, c."""
        spec = load_spec(config(*map(row, "abcd"), fallbacks=[{"a": ["b", "c"]}, {"b": ["d"]}]))
        assert tiers(spec, "a") == [["a"], ["b"], ["d"], ["c"]]

    def test_a_circle_ends_where_it_began(self):
        """Each deployment stands once."""
        spec = load_spec(config(*map(row, "ab"), fallbacks=[{"a": ["b"]}, {"b": ["a"]}]))
        assert (tiers(spec, "a"), tiers(spec, "b")) == ([["a"], ["b"]], [["b"], ["a"]])

    @pytest.mark.parametrize(
        "settings",
        [{"default_fallbacks": ["z"]}, {"fallbacks": [{"*": ["z"]}]}, {"module": {"default_fallbacks": ["z"]}}],
    )
    def test_those_of_everybody_are_for_whoever_has_none(self, settings):
        """An own entry wins; who is meant himself falls back to nobody."""
        own = [{"a": ["b"]}, *settings.get("fallbacks", [])]
        spec = load_spec(config(*map(row, "abz"), **{**settings, "fallbacks": own}))
        assert tiers(spec, "a") == [["a"], ["b"], ["z"]]
        assert tiers(spec, "b") == [["b"], ["z"]]
        assert tiers(spec, "z") == [["z"]]

    def test_each_kind_has_its_route(self):
        """And who stands in for a refusal falls back like anybody else."""
        spec = load_spec(
            config(
                *map(row, "abcd"),
                fallbacks=[{"c": ["d"]}],
                context_window_fallbacks=[{"a": ["b"]}],
                content_policy_fallbacks=[{"a": ["c"]}],
            )
        )
        assert tiers(spec, "a") == [["a"]]
        assert tiers(spec, "a", "on_context_window") == [["b"]]
        assert tiers(spec, "a", "on_content_policy") == [["c"], ["d"]]
        assert tiers(spec, "b", "on_context_window") is None

    def test_a_route_that_is_the_usual_one_is_not_written(self):
        """It is what happens anyway; an empty one ends the call and is written."""
        spec = load_spec(
            config(
                *map(row, "ab"),
                fallbacks=[{"a": ["b"]}],
                context_window_fallbacks=[{"a": ["b"]}],
                content_policy_fallbacks=[{"a": []}],
            )
        )
        assert tiers(spec, "a", "on_context_window") is None
        assert tiers(spec, "a", "on_content_policy") == []

    def test_the_router_s_hold_where_both_sections_have_them(self):
        """The others are listed."""
        spec = load_spec(
            config(*map(row, "abc"), fallbacks=[{"a": ["b"]}], module={"fallbacks": [{"a": ["c"]}], "num_retries": 1})
        )
        assert tiers(spec, "a") == [["a"], ["b"]]
        assert spec.retries("a").max == 1
        assert noted(spec) == {"litellm_settings.fallbacks": "router_settings has the same word, which holds"}

    def test_a_name_nobody_has_is_listed(self):
        """As a source and as a target; LiteLLM passes over both without a word."""
        spec = load_spec(config(*map(row, "ab"), fallbacks=[{"a": ["nobody", "b"]}, {"who": ["a"]}]))
        assert tiers(spec, "a") == [["a"], ["b"]]
        assert [note.text.partition(" ")[0] for note in spec.notes] == ["'nobody'", "'who'"]

    def test_a_deployment_may_be_named_by_its_id(self):
        """Then it alone stands in, not its group."""
        first, second = row("a", info={"id": "a-eu"}), row("a", info={"id": "a-us"})
        spec = load_spec(config(first, second, row("b"), fallbacks=[{"b": ["a-us"]}]))
        assert tiers(spec, "b") == [["b"], ["a-us"]]

    def test_a_group_named_with_its_provider_takes_the_entry_without(self):
        """As LiteLLM does."""
        spec = load_spec(config(row("openai/gpt-4.1"), row("b"), fallbacks=[{"gpt-4.1": ["b"]}]))
        assert tiers(spec, "openai/gpt-4.1") == [["openai/gpt-4.1"], ["b"]]

    def test_a_group_takes_the_entry_that_names_its_provider(self):
        """As LiteLLM does, if it is the provider it would ask for such a model; another one is nobody's."""
        spec = load_spec(config(row("gpt-4o"), row("b"), fallbacks=[{"openai/gpt-4o": ["b"]}]))
        assert (tiers(spec, "gpt-4o"), noted(spec)) == ([["gpt-4o"], ["b"]], {})
        spec = load_spec(config(row("gpt-4o"), row("b"), fallbacks=[{"azure/gpt-4o": ["b"]}]))
        assert tiers(spec, "gpt-4o") == [["gpt-4o"]]
        assert "'azure/gpt-4o' is none of the models" in noted(spec)["router_settings.fallbacks"]

    @pytest.mark.parametrize("fallbacks", [["b"], [{"a": ["b"]}, "b"], "b", [7]])
    def test_a_text_where_a_mapping_belongs_is_listed(self, fallbacks):
        """LiteLLM refuses to start with one."""
        spec = load_spec(config(*map(row, "ab"), fallbacks=fallbacks))
        assert "stands where a mapping belongs" in noted(spec)["router_settings.fallbacks"]

    def test_a_text_instead_of_a_list_is_read_as_meant(self):
        """LiteLLM would fall back to its letters."""
        spec = load_spec(config(row("a"), row("backup"), fallbacks=[{"a": "backup"}]))
        assert tiers(spec, "a") == [["a"], ["backup"]]
        assert "read as ['backup']" in noted(spec)["router_settings.fallbacks"]

    def test_of_two_entries_for_one_group_the_first_holds(self):
        """As LiteLLM takes them."""
        spec = load_spec(config(*map(row, "abc"), fallbacks=[{"a": ["b"]}, {"a": ["c"]}]))
        assert tiers(spec, "a") == [["a"], ["b"]]

    def test_a_target_with_words_of_its_own_is_its_model(self):
        """The words have no counterpart, and that is said."""
        target = {"model": "b", "messages": [{"role": "user", "content": "hi"}]}
        spec = load_spec(config(*map(row, "abc"), fallbacks=[{"a": [target]}, {"b": [{"model": "c"}]}]))
        assert (tiers(spec, "a"), tiers(spec, "b")) == ([["a"], ["b"], ["c"]], [["b"], ["c"]])
        assert "what 'a' sends 'b' besides" in noted(spec)["router_settings.fallbacks"]

    def test_whom_a_route_has_already_is_not_asked_twice(self):
        """However many fall back to him."""
        spec = load_spec(config(*map(row, "abc"), fallbacks=[{"a": ["b", "c"]}, {"b": ["c", "a"]}]))
        assert tiers(spec, "a") == [["a"], ["b"], ["c"]]

    def test_an_alias_may_have_an_entry_of_its_own(self):
        """Hidden or not; one for nobody is listed."""
        alias = {"x": {"model": "a", "hidden": True}, "y": "nobody"}
        spec = load_spec(config(*map(row, "ab"), fallbacks=[{"x": ["b"]}], model_group_alias=alias))
        assert tiers(spec, "x") == [["a"], ["b"]]
        assert tiers(spec, "a") == [["a"]]
        assert "y" not in spec.chains
        assert "router_settings.model_group_alias.y" in noted(spec)

    def test_an_alias_that_is_a_model_name_is_listed(self):
        """The chain is that of the model."""
        spec = load_spec(config(*map(row, "ab"), model_group_alias={"a": "b"}))
        assert tiers(spec, "a") == [["a"]]
        assert "is a model_name, too" in noted(spec)["router_settings.model_group_alias.a"]


class TestTheServerAroundIt:
    """What the proxy's file says of the proxy itself."""

    ROWS = config(row("a"))

    @staticmethod
    def keys(spec):
        return [key.get_secret_value() for key in spec.serve.keys]

    def test_the_proxy_s_key_is_needed_here_too(self):
        """Whoever called with it calls with it; nobody is let in without. It is shown nowhere."""
        spec = load_spec({**self.ROWS, "general_settings": {"master_key": "os.environ/LITELLM_MASTER_KEY"}})
        assert (self.keys(spec), spec.notes) == (["${LITELLM_MASTER_KEY}"], ())
        clear = load_spec({**self.ROWS, "general_settings": {"master_key": "sk-${x"}})
        assert self.keys(clear) == ["sk-$${x"]
        assert "sk-" not in repr(clear)

    def test_so_is_one_that_only_the_file_s_variables_name(self):
        """LiteLLM finds it there."""
        spec = load_spec({**self.ROWS, "environment_variables": {"LITELLM_MASTER_KEY": "sk-1"}})
        assert self.keys(spec) == ["${LITELLM_MASTER_KEY}"]

    @pytest.mark.parametrize("key", ["", " ", ["sk-1"], {"a": 1}, True, False])
    def test_a_key_that_is_none_is_warned_of(self, key):
        """It would let everybody in; no key of anybody's is told."""
        spec = load_spec({**self.ROWS, "general_settings": {"master_key": key}})
        assert self.keys(spec) == []
        [note] = spec.notes
        assert (note.severity, note.path) == ("warning", "general_settings.master_key")
        assert "sk-1" not in note.text

    def test_serve_and_fleet_may_stand_in_the_file(self, tmp_path):
        """A key under `serve` holds; a mistake in them is told with its line."""
        path = tmp_path / "config.yaml"
        own = {"serve": {"port": 4000, "keys": ["${K}"]}, "fleet": {"store": "redis://r:6379", "name": "prod"}}
        path.write_text(yaml.safe_dump({**self.ROWS, **own, "general_settings": {"master_key": "sk-2"}}))
        spec = load_spec(path)
        assert (spec.serve.port, self.keys(spec), spec.fleet.name) == (4000, ["${K}"], "prod")
        assert noted(spec) == {"general_settings.master_key": "serve.keys is written, too, which holds"}
        path.write_text(yaml.safe_dump(self.ROWS) + "serve:\n  prot: 1\n")
        with pytest.raises(SpecError) as caught:
            load_spec(path)
        [mistake] = caught.value.mistakes
        assert (mistake.path, mistake.line) == ("serve.prot", len(path.read_text().splitlines()))

    def test_other_sections_of_ours_are_told_where_to_stand(self):
        """In a file laid over this one."""
        spec = load_spec({**self.ROWS, "chains": {"a": {"hedge": {"after_s": 1}}}})
        assert "-f config.yaml -f FILE" in noted(spec)["chains"]
        assert load_spec(self.ROWS, {"chains": {"a": {"hedge": {"after_s": 1}}}}).hedge("a").after_s == 1

    @pytest.mark.parametrize("word", ["redis_url", "redis_host", "redis_port", "redis_password"])
    def test_the_router_s_store_is_told_its_counterpart(self, word):
        """What processes share is a fleet's."""
        spec = load_spec(config(row("a"), **{word: "os.environ/REDIS"}))
        assert "`fleet.store`" in noted(spec)[f"router_settings.{word}"]


class TestWordsMisspelt:
    @pytest.mark.parametrize(
        ("data", "path", "meant"),
        [
            (config(row("a"), falbacks=[{"a": ["b"]}]), "router_settings.falbacks", "fallbacks"),
            (config(row("a"), alowed_fails=2), "router_settings.alowed_fails", "allowed_fails"),
            (config(row("a"), module={"num_retires": 2}), "litellm_settings.num_retires", "num_retries"),
            ({**config(row("a")), "litelm_settings": {"num_retries": 2}}, "litelm_settings", "litellm_settings"),
            ({**config(row("a")), "general_setting": {"master_key": "x"}}, "general_setting", "general_settings"),
            (config(row("a"), row("b", info={"bse_model": "x"})), "model_list[1].model_info.bse_model", "base_model"),
            (config(row("a", api_bse="http://x")), "model_list[0].litellm_params.api_bse", "api_base"),
            (config(row("a"), {"model_name": "b", "litellm_params": {"modle": "x/y"}}), "model_list[1]", "model"),
            (config(row("a"), {"modelname": "b", "litellm_params": {"model": "x/y"}}), "model_list[1]", "model_name"),
        ],
    )
    def test_a_word_that_is_nearly_one_of_litellm_s_is_warned_of(self, data, path, meant):
        """It would be passed over in silence there."""
        [note] = [note for note in load_spec(data).notes if note.severity == "warning"]
        assert note.path == path
        assert note.text.endswith(f"did you mean {meant!r}?")

    def test_who_builds_is_told_once(self, caplog):
        """A model that is derived from another says nothing again."""
        with build_chat_model(config(row("a"), row("b"), falbacks=[{"a": ["b"]}], set_verbose=True)) as model:
            model.with_chain("b")
        assert [record.message for record in caplog.records if record.name == "llm_fallback"] == [
            "router_settings.falbacks: is no word of LiteLLM's; did you mean 'fallbacks'?"
        ]


class TestGroups:
    def test_numbers_are_those_of_the_file(self):
        """Whoever is asked first: here the second row, as the first has no weight."""
        spec = load_spec(config(row("a"), row("b"), row("a", weight=2)))
        assert tiers(spec, "a") == [["a-2"], ["a-1"]]
        assert list(spec.deployments) == ["a-1", "b", "a-2"]

    def test_weights_are_weights(self):
        """A weight of 0 is out of rotation here as there."""
        spec = load_spec(config(row("a", weight=3), row("a", weight=1), row("a", weight=0)))
        assert tiers(spec, "a") == [["a-1", "a-2", "a-3"]]
        assert [spec.deployments[name].weight for name in ("a-1", "a-2", "a-3")] == [3, 1, 0]

    def test_without_weights_limits_are(self):
        """LiteLLM shares the load by rpm, else by tpm."""
        by_rpm = load_spec(config(row("a", rpm=6, tpm=9), row("a", rpm=60, tpm=1)))
        by_tpm = load_spec(config(row("a", tpm=100), row("a", tpm=300)))
        assert [by_rpm.deployments[name].weight for name in ("a-1", "a-2")] == [6, 60]
        assert [by_tpm.deployments[name].weight for name in ("a-1", "a-2")] == [100, 300]
        assert load_spec(config(row("a", rpm=6), row("a", rpm=6))).deployments["a-1"].weight == 1

    def test_who_has_no_share_comes_after_those_who_have(self):
        """LiteLLM asks it only when the others are out; so it is a tier of its own, and listed."""
        spec = load_spec(config(row("a"), row("a", weight=2), row("a", weight=1)))
        assert tiers(spec, "a") == [["a-2", "a-3"], ["a-1"]]
        assert noted(spec) == {"model_list[0]": "has no weight, as others of 'a' have: it is asked after them"}

    def test_an_order_makes_tiers(self):
        """Lower first; whoever has none comes last."""
        spec = load_spec(config(row("a", order=2), row("a", order=1), row("a", order=2), row("a")))
        assert tiers(spec, "a") == [["a-2"], ["a-1", "a-3"], ["a-4"]]
        assert spec.deployments["a-1"].given() == {"model": "openai/gpt-4.1"}

    def test_limits_beside_the_parameters_count_as_well(self):
        """Where older configurations have them."""
        spec = load_spec(config({**row("a"), "rpm": "60", "tpm": 1000}))
        assert spec.limits("a").given() == {"rpm": 60, "tpm": 1000}


class TestRows:
    @pytest.mark.parametrize(
        ("params", "expected"),
        [
            ({"model": "hosted_vllm/q/w", "api_base": "http://g:8000/v1"}, ("vllm", "q/w", "http://g:8000/v1")),
            ({"model": "hosted_vllm/q/w", "api_base": "os.environ/GPU"}, ("vllm", "q/w", "${GPU}")),
            ({"model": "hosted_vllm/q"}, ("vllm", "q", "${HOSTED_VLLM_API_BASE}")),
            ({"model": "litellm_proxy/x", "api_base": "http://p:4000"}, ("litellm-proxy", "x", "http://p:4000")),
            ({"model": "openai/x", "api_base": "http://g/v1/"}, ("openai-compatible", "x", "http://g/v1/")),
            ({"model": "openai/x", "base_url": "http://g/v1"}, ("openai-compatible", "x", "http://g/v1")),
            # Here a backend would change the address.
            ({"model": "openai/x", "api_base": "http://g:8000"}, (None, "openai/x", "http://g:8000")),
            ({"model": "openai/x", "api_base": "os.environ/GPU"}, (None, "openai/x", "${GPU}")),
            ({"model": "openai/x"}, (None, "openai/x", None)),
            ({"model": "gpt-4o"}, (None, "openai/gpt-4o", None)),
            ({"model": "claude-3-haiku"}, (None, "anthropic/claude-3-haiku", None)),
            ({"model": "x/y", "custom_llm_provider": "openai"}, (None, "openai/x/y", None)),
            ({"model": "openai/x", "custom_llm_provider": "openai"}, (None, "openai/x", None)),
            ({"model": "azure/x", "api_base": "https://a.com/"}, (None, "azure/x", "https://a.com/")),
        ],
    )
    def test_a_server_of_one_s_own_is_a_backend(self, params, expected):
        """As long as requests go to the same address with it."""
        own = load_spec(config(row("a", api_key="k", **params))).deployments["a"]
        assert (own.backend, own.model, own.api_base) == expected

    def test_the_requests_of_a_versionless_vllm_go_to_v1_and_that_is_said(self):
        """vLLM answers nowhere else."""
        spec = load_spec(config(row("a", "hosted_vllm/q", api_base="http://g:8000")))
        assert "requests go to /v1" in noted(spec)["model_list[0].litellm_params.api_base"]

    def test_an_own_server_without_a_key_gets_none_and_that_is_said(self):
        """LiteLLM would send it the key of OpenAI."""
        spec = load_spec(config(row("a", "openai/q", api_base="http://g:8000")))
        assert spec.deployments["a"].api_key is None
        assert "OPENAI_API_KEY" in noted(spec)["model_list[0].litellm_params"]

    def test_references_become_variables_and_dollars_stay_dollars(self):
        """`os.environ/NAME` as a whole value, at any depth; what only looks like a variable of ours is none."""
        spec = load_spec(
            config(row("a", api_key="os.environ/KEY", user="$${x}", extra_headers={"X-Token": "os.environ/TOKEN"}))
        )
        names = {reference.name for _, reference in spec.references()}
        assert names == {"KEY", "TOKEN"}
        assert spec.deployments["a"].params["user"] == "$$$${x}"

    def test_what_the_proxy_keeps_to_itself_is_listed_and_the_rest_goes_into_requests(self):
        """A price in a request would have LiteLLM register the model anew on each call."""
        params = {
            "seed": 1,
            "num_retries": 2,
            "tags": ["x"],
            "input_cost_per_token_above_128k_tokens": 1,
            "stream": True,
        }
        spec = load_spec(config(row("a", **params)))
        assert spec.deployments["a"].params == {"seed": 1}
        assert sorted(noted(spec)) == [
            f"model_list[0].litellm_params.{word}"
            for word in ("input_cost_per_token_above_128k_tokens", "num_retries", "stream", "tags")
        ]

    @pytest.mark.parametrize(
        ("info", "expected"),
        [
            ({"input_cost_per_token": 0, "output_cost_per_token": 0}, "free"),
            ({"input_cost_per_token": "0.000003"}, {"input_per_million": Decimal(3)}),
            ({"input_cost_per_query": 0.01}, {"per_request": Decimal("0.01")}),
            ({"input_cost_per_second": 0.001}, {"per_gpu_hour": Decimal("3.6")}),
        ],
    )
    def test_prices_are_per_million(self, info, expected):
        """A million times as much, exactly; in `model_info` or `litellm_params`; zero for both kinds is free."""
        for own in (load_spec(config(row("a", info=info))), load_spec(config(row("a", **info)))):
            price = own.deployments["a"].price
            assert (price if isinstance(price, str) else price.given()) == expected

    def test_of_several_organizations_the_first_is_used_and_that_is_said(self):
        """LiteLLM takes turns among them."""
        spec = load_spec(config(row("a", organization=["os.environ/ORG", "org-2"])))
        assert spec.deployments["a"].params["organization"].get_secret_value() == "${ORG}"
        assert "only its first is used" in noted(spec)["model_list[0].litellm_params.organization"]

    def test_references_within_lists_become_variables(self):
        """Of a parameter that goes into the request."""
        spec = load_spec(config(row("a", stop=["os.environ/STOP", "$5"])))
        stop, plain = spec.deployments["a"].params["stop"]
        assert (stop.get_secret_value(), plain) == ("${STOP}", "$5")

    def test_credentials_are_looked_up_by_their_name(self):
        """What a row says itself wins."""
        entry = {"credential_name": "eu", "credential_values": {"api_key": "os.environ/KEY", "api_base": "https://eu"}}
        named = row("a", "azure/x", litellm_credential_name="eu", api_base="https://own")
        spec = load_spec({**config(named), "credential_list": [entry]})
        assert spec.deployments["a"].api_base == "https://own"
        assert [reference.name for _, reference in spec.references()] == ["KEY"]
        assert not spec.notes

    def test_rows_of_one_id_in_several_groups_are_one_deployment(self):
        """Named by what follows the group in the id; with timeouts of their own, those are the chains'."""
        quick = row("quick", "openai/x", {"id": "quick/x"}, timeout=2)
        slow = row("slow", "openai/x", {"id": "slow/x"}, timeout=90)
        spec = load_spec(config(quick, slow))
        assert list(spec.deployments) == ["x"]
        assert [spec.timeouts(chain, "x").attempt_s for chain in ("quick", "slow")] == [2, 90]

    def test_rows_of_one_id_whose_timeouts_fit_no_chain_are_several(self):
        """Each chain would need two."""
        rows = [
            row(group, f"openai/{name}", {"id": f"{group}/{name}"}, timeout=timeout)
            for group, timeouts in {"quick": {"x": 2, "y": 3}, "slow": {"x": 90, "y": 91}}.items()
            for name, timeout in timeouts.items()
        ]
        spec = load_spec(config(*rows))
        assert {
            (chain, spec.deployments[name].model): spec.timeouts(chain, name).attempt_s
            for chain in spec.chains
            for name in spec.chains[chain].deployments()
        } == {("quick", "openai/x"): 2, ("quick", "openai/y"): 3, ("slow", "openai/x"): 90, ("slow", "openai/y"): 91}

    def test_a_backend_that_litellm_asks_by_another_name_is_told(self):
        """And the deployment is what its provider makes of it."""
        spec = load_spec(config(row("a", "hosted_vllm/m", {"backend": "ollama"}, api_base="http://gpu/v1")))
        assert spec.deployments["a"].backend == "vllm"
        assert noted(spec) == {"model_list[0].model_info.backend": "is no backend that LiteLLM asks by hosted_vllm/"}

    def test_rows_that_share_an_id_and_say_different_things_are_two(self):
        """The second gets a number."""
        spec = load_spec(config(row("a", "openai/x", {"id": "x"}), row("b", "openai/y", {"id": "x"})))
        assert {name: own.model for name, own in spec.deployments.items()} == {"x": "openai/x", "x#2": "openai/y"}

    @pytest.mark.parametrize(
        ("bad", "reason"),
        [
            (row("b", "x/*"), "stands for any number"),
            (row("b", info={"mode": "image_generation"}), "is for image_generation"),
            (row("b", "auto_router/x"), "chooses among other models"),
            (row("b", "azure/x", api_base="your-azure-endpoint"), "must be an address"),
            (row("b", "unheard-of"), "names no provider"),
            (row("b", "trtllm/x"), "is no provider of litellm's"),
            ({"model_name": "b"}, "no litellm_params.model"),
            ("b", "no litellm_params.model"),
        ],
    )
    def test_a_row_that_cannot_be_asked_is_left_out_with_the_reason(self, bad, reason):
        """Rather than asked somewhere else, or with another key."""
        spec = load_spec({"model_list": [bad, row("a")]})
        assert list(spec.chains) == ["a"]
        assert reason in noted(spec)["model_list[0]"]

    @pytest.mark.parametrize(
        ("params", "path"),
        [
            ({"rpm": -1}, "model_list[0].litellm_params.rpm"),
            ({"timeout": "os.environ/T"}, "model_list[0].litellm_params.timeout"),
            ({"weight": "much"}, "model_list[0].litellm_params.weight"),
            ({"order": "first"}, "model_list[0].litellm_params.order"),
        ],
    )
    def test_a_value_that_fits_nowhere_is_left_out_with_the_reason(self, params, path):
        """The rest of its row stands."""
        spec = load_spec(config(row("a", **params)))
        assert spec.deployments["a"].given() == {"model": "openai/gpt-4.1"}
        assert noted(spec)[path].endswith(": left out")

    def test_without_any_row_that_can_be_asked_it_is_no_spec(self):
        """The mistake has every reason."""
        with pytest.raises(SpecError) as caught:
            load_spec(config(row("x/*", "x/*"), row("e", info={"mode": "embedding"})))
        assert [mistake.path for mistake in caught.value.mistakes] == ["model_list", "model_list[0]", "model_list[1]"]


class TestSettings:
    def test_each_attempt_has_its_time_where_that_is_more_than_a_call_s(self):
        """LiteLLM bounds no call; so `total_s` is what its attempts take together, if that is more than usual."""
        spec = load_spec(config(*map(row, "ab"), timeout=200, fallbacks=[{"a": ["b"]}]))
        assert (spec.timeouts("a").total_s, spec.timeouts("b").total_s) == (400, 300)
        assert load_spec(config(row("a"))).timeouts("a").total_s == 300

    def test_request_timeout_wins_over_the_router_s(self):
        """As in LiteLLM; the other is listed."""
        spec = load_spec(config(row("a"), timeout=60, module={"request_timeout": 10}))
        assert spec.timeouts("a").attempt_s == 10
        assert list(noted(spec)) == ["router_settings.timeout"]

    def test_other_settings_find_their_place(self):
        """Waits, limits, parameters for all, no breaker at all."""
        spec = load_spec(
            config(
                row("a"),
                retry_after=10,
                stream_timeout=4,
                default_max_parallel_requests=8,
                default_litellm_params={"temperature": 0, "timeout": 3},
                disable_cooldowns=True,
            )
        )
        assert spec.retries("a").given() == {"wait_initial_s": 10, "wait_max_s": 10}
        assert spec.timeouts("a").first_token_s == 4
        assert spec.limits("a").max_parallel == 8
        assert spec.params("a") == {"temperature": 0}
        assert spec.breaker("a") is None
        assert list(noted(spec)) == ["router_settings.default_litellm_params.timeout"]

    def test_what_is_done_here_anyway_is_not_listed(self):
        """Its opposite is."""
        already = {"enable_pre_call_checks": True, "routing_strategy": "simple-shuffle"}
        assert not load_spec(config(row("a"), **already, module={"drop_params": True})).notes
        assert list(noted(load_spec(config(row("a"), module={"drop_params": False})))) == [
            "litellm_settings.drop_params"
        ]

    def test_a_row_s_own_cooldown_is_its_breaker(self):
        """0 is none."""
        spec = load_spec(config(row("a", cooldown_time=0), row("b", cooldown_time=9, info={"allowed_fails": 0})))
        assert spec.breaker("a") is None
        assert (spec.breaker("b").cooldown_s, spec.breaker("b").failures) == (9, 1)


def test_files_that_are_included_are_named_and_do_as_further_sources():
    """Each is a configuration of its own, laid over the first."""
    first = {**config(row("a"), row("b"), fallbacks=[{"a": ["b"]}]), "include": ["more.yaml"]}
    spec = load_spec(first, config(row("c")), {"default_chain": "a"})
    assert noted(spec) == {"include": "is not read here: give its files as further sources"}
    assert list(spec.chains) == ["a", "b", "c"]


def test_a_model_built_from_a_configuration_falls_back_as_it_says(tmp_path, monkeypatch):
    """From the file, unchanged, over real HTTP; the key is taken from the environment."""
    monkeypatch.setenv("BACKUP_KEY", "sk-backup-0123456789")
    with FakeServer({"down": Fail(503), "up": "hello"}) as server:
        rows = [
            row("chat", "hosted_vllm/down", api_base=f"{server.base('down')}/v1"),
            row("backup", "openai/up", api_base=f"{server.base('up')}/v1", api_key="os.environ/BACKUP_KEY"),
        ]
        path = tmp_path / "config.yaml"
        path.write_text(yaml.safe_dump(config(*rows, fallbacks=[{"chat": ["backup"]}])), encoding="utf-8")
        with build_chat_model(path) as model:
            reply = model.invoke("hi")
        assert_attempts(reply, "chat: overloaded", "backup: succeeded")
        assert server.received("up")[0].headers["authorization"] == "Bearer sk-backup-0123456789"


class TestVariablesOfTheFile:
    """`environment_variables` go before the process's, and stay within."""

    @staticmethod
    def variables(**values: Any) -> dict[str, Any]:
        return {"environment_variables": values}

    def test_references_get_them_and_the_process_does_not(self, monkeypatch):
        """Over real HTTP: address and key are the file's, though the process has others."""
        monkeypatch.setenv("OWN_KEY", "sk-of-the-process-0123456789")
        with FakeServer({"up": "hello"}) as server:
            own = self.variables(OWN_BASE=f"{server.base('up')}/v1", OWN_KEY="sk-in-the-file-$0123456789")
            rows = config(row("a", api_base="os.environ/OWN_BASE", api_key="os.environ/OWN_KEY"))
            with build_chat_model({**rows, **own}) as model:
                model.invoke("hi")
            assert server.received("up")[0].headers["authorization"] == "Bearer sk-in-the-file-$0123456789"
        assert os.environ["OWN_KEY"] == "sk-of-the-process-0123456789"
        assert "OWN_BASE" not in os.environ

    def test_they_are_secrets(self):
        """Neither the spec nor an error of a server shows one."""
        canary = "sk-canary-0123456789abcdef"
        with FakeServer({"up": Fail(400, body={"error": {"message": f"no {canary}"}})}) as server:
            rows = config(row("a", api_base=f"{server.base('up')}/v1", api_key="os.environ/OWN_KEY"))
            spec = load_spec({**rows, **self.variables(OWN_KEY=canary, OTHER=canary)})
            assert canary not in f"{spec!r} {spec.notes} {spec.model_dump()}"
            with build_chat_model(spec) as model, pytest.raises(Exception, match=r"\*\*\*") as caught:
                model.invoke("hi")
        assert canary not in str(caught.value)

    def test_they_may_name_the_process_s(self):
        """One that is not set there stays unset here."""
        spec = load_spec({**config(row("a")), **self.variables(A="os.environ/THERE", B="os.environ/NOWHERE", C=7)})
        assert spec.environment({"THERE": "x", "C": "y"}) == {"THERE": "x", "A": "x", "C": "7"}

    def test_a_row_without_a_key_gets_its_provider_s(self):
        """LiteLLM would export it, and its provider's client would find it there."""
        spec = load_spec({**config(row("a", "groq/m"), row("b", "xai/m")), **self.variables(GROQ_API_KEY="gsk-1")})
        assert spec.deployments["a"].api_key.get_secret_value() == "${GROQ_API_KEY}"
        assert spec.deployments["b"].api_key is None

    def test_azure_s_goes_to_its_address(self):
        """LiteLLM takes it wherever the resource is."""
        rows = config(row("a", "azure/prod", api_base="https://x.openai.azure.com"))
        spec = load_spec({**rows, **self.variables(AZURE_API_KEY="az-1")})
        assert spec.deployments["a"].api_key.get_secret_value() == "${AZURE_API_KEY}"

    def test_one_that_nothing_refers_to_is_listed(self):
        """LiteLLM's clients would find it in the process."""
        spec = load_spec({**config(row("a")), **self.variables(AWS_REGION_NAME="eu-west-1")})
        assert "never exported" in noted(spec)["environment_variables.AWS_REGION_NAME"]

    def test_check_knows_them(self, monkeypatch):
        """What the file sets is not missing."""
        monkeypatch.delenv("OWN_KEY", raising=False)
        rows = {**config(row("a", api_key="os.environ/OWN_KEY")), **self.variables(OWN_KEY="sk-1")}
        assert "not set" not in str(check(rows, env=True))


class TestProvidersNobodyKnows:
    ROWS = (row("good", api_key="sk-x-000000000000"), row("odd", "zhipu/glm-4-flash", api_key="k-000000000000"))

    def test_a_row_of_one_is_left_out(self):
        """LiteLLM's proxy starts without it, too."""
        spec = load_spec(config(*self.ROWS, fallbacks=[{"odd": ["good"]}]))
        assert list(spec.chains) == ["good"]
        assert "'zhipu', which 'odd' asks, is no provider of litellm's: left out" in noted(spec)["model_list[1]"]
        assert build_router(spec).get_model_names() == ["good"]

    def test_the_plain_router_is_built_without_one(self, caplog):
        """Of any spec, with a warning: the chain begins with the next tier."""
        spec = {
            "deployments": {"odd": {"model": "zhipu/glm"}, "good": {"model": "openai/m", "api_key": "sk-x"}},
            "chains": {"main": {"tiers": ["odd", "good"]}},
        }
        assert [entry["model_info"]["id"] for entry in build_router(spec).model_list] == ["main/good"]
        assert "no provider of zhipu/glm" in caplog.text

    @pytest.mark.parametrize("model", ["bigmodel/glm-4", "gmi/any", "os.environ/MODEL"])
    def test_a_row_that_may_have_one_stays(self, model):
        """A provider of few users, or a variable."""
        assert list(load_spec(config(row("a", model))).chains) == ["a"]


@pytest.mark.parametrize("suffix", ["yaml", "json"])
def test_of_a_section_that_stands_twice_the_last_is_taken_with_a_warning(tmp_path, suffix):
    """As LiteLLM does, which says nothing. In a spec it stays a mistake."""
    path = tmp_path / f"config.{suffix}"
    rows = json.dumps([row("a"), row("b")])
    first, last = ('"router_settings": ' + json.dumps({"fallbacks": [{"a": [to]}]}) for to in ("x", "b"))
    path.write_text(f'{{"model_list": {rows},\n{first},\n{last}}}', encoding="utf-8")
    spec = load_spec(path)
    assert tiers(spec, "a") == [["a"], ["b"]]
    [found] = [finding for finding in check(spec) if finding.path == "router_settings"]
    assert (found.severity, found.line) == ("warning", 3)
    assert found.message.endswith("the last one is taken")
