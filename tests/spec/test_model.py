"""A spec as an object: what holds after defaults, what overrides it, what it shows, what editors are told."""

import copy
import json
import pickle
from contextlib import suppress
from datetime import date
from decimal import Decimal
from itertools import product
from pathlib import Path

import jsonschema
import pytest
import yaml
from hypothesis import example, given
from hypothesis import strategies as st
from langchain_core.language_models import ModelProfile
from langchain_core.prompts import ChatPromptTemplate
from pydantic import SecretStr, ValidationError

from llm_fallback.errors import SpecError
from llm_fallback.spec import Breaker, Budget, Hedge, Limits, Retries, Spec, Timeouts, json_schema, load_spec
from llm_fallback.spec.entries import prompt_flaw
from llm_fallback.spec.model_profile import Profile

CANARY = "sk-canary-0123456789abcdef"


def spec_of(*, deployment=None, chain=None, **rest):
    """A spec of one chain over two deployments, with settings laid over."""
    return load_spec(
        {
            "deployments": {"a": {"model": "openai/a", **(deployment or {})}, "b": {"model": "openai/b"}},
            "chains": {"main": {"tiers": ["a", "b"], **(chain or {})}},
            **rest,
        }
    )


TEXTS = st.text().filter(lambda text: "$" not in text)
"""Without a variable's beginning: `${` alone is a mistake."""


class TestWhatHolds:
    def test_without_a_word_the_library_s_defaults_hold(self):
        """An empty chain of settings gives the contract's numbers."""
        spec = spec_of()
        timeouts = spec.timeouts("main", "a")
        assert (timeouts.total_s, timeouts.attempt_s, timeouts.first_token_s, timeouts.idle_s) == (
            300,
            120,
            None,
            60,
        )
        assert spec.retries("main") == Retries(max=2, wait_initial_s=0.5, wait_max_s=8)
        assert spec.breaker("a") == Breaker(failures=3, failure_ratio=0.5, window_s=60, cooldown_s=30)
        assert (spec.hedge("main"), spec.budget("main"), spec.accept("main"), spec.limits("a")) == (None,) * 4
        assert spec.on_stream_break("main") == "raise"

    def test_timeouts_are_overridden_key_by_key(self):
        """Defaults, then the chain, then the deployment: each decides only what it says."""
        spec = spec_of(
            defaults={"timeouts": {"total_s": 100, "attempt_s": 50, "idle_s": 9}},
            chain={"timeouts": {"attempt_s": 20, "first_token_s": 3}},
            deployment={"timeouts": {"first_token_s": 8}},
        )
        assert spec.timeouts("main") == Timeouts(total_s=100, attempt_s=20, first_token_s=3, idle_s=9)
        assert spec.timeouts("main", "a") == Timeouts(total_s=100, attempt_s=20, first_token_s=8, idle_s=9)

    def test_null_lifts_a_limit_on_time(self):
        """An explicit null is a choice, not an absence."""
        spec = spec_of(
            defaults={"timeouts": {"first_token_s": 3}},
            deployment={"timeouts": {"attempt_s": None, "first_token_s": None, "idle_s": None}},
        )
        assert spec.timeouts("main", "a") == Timeouts(attempt_s=None, first_token_s=None, idle_s=None)
        assert spec.timeouts("main", "b") == Timeouts(first_token_s=3)

    @pytest.mark.parametrize("off", ["off", False])
    def test_a_breaker_can_be_off(self, off):
        """`off` is understood also where YAML 1.1 makes it false."""
        assert spec_of(deployment={"breaker": off}).breaker("a") is None
        assert spec_of(defaults={"breaker": off}).breaker("a") is None

    def test_a_deployment_may_switch_on_what_the_defaults_switch_off(self):
        """The nearer word counts."""
        spec = spec_of(defaults={"breaker": "off"}, deployment={"breaker": {"failures": 5}})
        assert spec.breaker("a") == Breaker(failures=5)
        assert spec.breaker("b") is None

    def test_limits_budget_and_hedge_merge_with_the_defaults(self):
        """Settings that are absent by default merge key by key too, and null takes them away."""
        defaults = {"limits": {"rpm": 10, "tpm": 100}, "budget": {"usd_per_day": 20}, "hedge": {"after_s": 2}}
        spec = spec_of(
            defaults=defaults,
            deployment={"limits": {"rpm": 5}},
            chain={"budget": {"usd_per_call": 0.05}, "hedge": {}},
        )
        assert spec.limits("a") == Limits(rpm=5, tpm=100)
        assert spec.budget("main") == Budget(usd_per_call="0.05", usd_per_day=20)
        assert spec.hedge("main") == Hedge(after_s=2)
        assert spec_of(defaults=defaults, chain={"budget": None, "hedge": "off"}).budget("main") is None
        assert spec_of(defaults=defaults, chain={"hedge": "off"}).hedge("main") is None

    def test_a_chain_that_judges_replies_holds_them(self):
        """Beside `accept` a stream is held unless something else was written, which is a mistake."""
        assert spec_of(chain={"accept": "pkg.checks:good"}).on_stream_break("main") == "hold"

    def test_parameters_of_a_deployment_go_over_those_of_all(self):
        """`params` merge by name."""
        spec = spec_of(defaults={"params": {"temperature": 0, "seed": 1}}, deployment={"params": {"temperature": 1}})
        assert spec.params("a") == {"temperature": 1, "seed": 1}

    def test_zero_is_a_number(self):
        """No retry, no weight and no money are said with 0 and kept."""
        spec = spec_of(
            chain={"retries": {"max": 0}, "budget": {"usd_per_call": 0}},
            deployment={"weight": 0, "price": {"input_per_million": 0}},
        )
        assert spec.retries("main").max == 0
        assert spec.budget("main").usd_per_call == 0
        assert spec.deployments["a"].weight == 0
        assert spec.deployments["a"].price.input_per_million == Decimal(0)

    def test_money_is_exact(self):
        """A price of 0.20 is two tenths, not the float nearest to it."""
        spec = spec_of(deployment={"price": {"input_per_million": 0.1, "output_per_million": "0.3"}})
        price = spec.deployments["a"].price
        assert price.input_per_million + Decimal("0.2") == price.output_per_million

    def test_tiers_are_tuples_of_names(self):
        """A name alone is a tier of one; [] is not the same as nothing."""
        chain = spec_of(chain={"tiers": ["a", ["b"]], "on_context_window": []}).chains["main"]
        assert chain.tiers == (("a",), ("b",))
        assert chain.on_context_window == ()
        assert chain.on_content_policy is None

    def test_langchain_s_way_to_name_a_model_is_litellm_s(self):
        """`provider:model` becomes `provider/model`; colons further on stay, and with a backend all do."""
        spec = load_spec(
            {
                "deployments": {
                    "a": {"model": "openai:gpt-4.1"},
                    "b": {"model": "ollama/llama3:8b"},
                    "c": {"model": "llama3:8b", "backend": "vllm", "api_base": "http://gpu"},
                }
            }
        )
        assert [d.model for d in spec.deployments.values()] == [
            "openai/gpt-4.1",
            "ollama/llama3:8b",
            "llama3:8b",
        ]


class TestOverrides:
    def test_a_setting_is_overridden_key_by_key(self):
        """What is not named stays as the chain has it, and the first spec is unchanged."""
        spec = spec_of(chain={"timeouts": {"total_s": 30, "idle_s": 5}})
        changed = spec.with_chain_settings("main", timeouts={"total_s": 5}, retries={"max": 0})
        assert changed.timeouts("main") == Timeouts(total_s=5, idle_s=5)
        assert changed.retries("main").max == 0
        assert spec.timeouts("main").total_s == 30

    def test_none_takes_a_setting_away(self):
        """`budget=None` is no budget, also where the defaults have one."""
        spec = spec_of(defaults={"budget": {"usd_per_day": 1}})
        assert spec.with_chain_settings("main", budget=None).budget("main") is None

    def test_models_and_functions_are_taken_too(self):
        """In Python a setting may be an object, and `accept` a function."""
        spec = spec_of().with_chain_settings("main", timeouts=Timeouts(total_s=5), accept=bool)
        assert spec.timeouts("main").total_s == 5
        assert spec.accept("main") is bool

    @pytest.mark.parametrize(
        ("settings", "text"),
        [
            (
                {"timeouts": {"total_s": -3}},
                "build_chat_model(timeouts.total_s): must be greater than 0, got -3",
            ),
            ({"budgt": {}}, "build_chat_model(budgt): unknown key 'budgt'; did you mean 'budget'?"),
            (
                {"num_retries": 3},
                "build_chat_model(num_retries): unknown key 'num_retries'; here it is 'retries.max'",
            ),
            (
                {"api_key": CANARY},
                "build_chat_model(api_key): unknown key 'api_key'; here it is 'deployments.<name>.api_key'",
            ),
        ],
    )
    def test_a_wrong_override_is_named_like_a_mistake_in_a_file(self, settings, text):
        """The path says which argument, the remedy what to write."""
        with pytest.raises(SpecError) as caught:
            spec_of().with_chain_settings("main", **settings)
        assert [str(mistake) for mistake in caught.value.mistakes] == [text]

    def test_a_chain_that_does_not_exist_is_named(self):
        """With the nearest one that does."""
        with pytest.raises(SpecError, match="no chain is called 'mian'; did you mean 'main'"):
            spec_of().with_chain_settings("mian")

    def test_an_override_must_agree_with_the_rest_of_the_chain(self):
        """A judge cannot be added to a chain that delivers before replies are whole."""
        spec = spec_of(chain={"on_stream_break": "continue"})
        with pytest.raises(SpecError, match=r"build_chat_model\(chains.main.on_stream_break\): cannot be 'continue'"):
            spec.with_chain_settings("main", accept=bool)


class TestAsAValue:
    def test_a_spec_pickles_copies_and_compares(self):
        """Two specs that say the same are equal, wherever they were written."""
        spec = spec_of(deployment={"api_key": "${KEY}", "params": {"x-token": "${TOKEN}"}})
        assert pickle.loads(pickle.dumps(spec)) == spec
        assert copy.deepcopy(spec) == spec
        assert spec != spec_of()

    @pytest.mark.parametrize("clear", [{"api_key": "k"}, {"params": {"x-token": "t"}}, {"api_base": "http://a:b@c"}])
    def test_a_secret_in_clear_is_not_pickled(self, clear):
        """Whoever finds a pickle can read it; a copy in the process is none of that."""
        spec = spec_of(deployment=clear)
        with pytest.raises(TypeError, match="write"):
            pickle.dumps(spec)
        assert copy.deepcopy(spec) == spec.model_copy() == spec

    def test_a_spec_cannot_be_changed(self):
        """Neither it nor its parts take assignments."""
        spec = spec_of()
        with pytest.raises(ValidationError, match="frozen"):
            spec.default_chain = "other"
        with pytest.raises(ValidationError, match="frozen"):
            spec.deployments["a"].weight = 3

    @given(
        st.fixed_dictionaries(
            {},
            optional={
                "timeouts": st.fixed_dictionaries(
                    {},
                    optional={
                        "attempt_s": st.none() | st.floats(0.1, 99),
                        "idle_s": st.none() | st.floats(0.1, 9),
                    },
                ),
                "breaker": st.sampled_from(["off", False]) | st.fixed_dictionaries({"failures": st.integers(1, 9)}),
                "price": st.just("free") | st.fixed_dictionaries({"input_per_million": st.decimals(0, 99, places=4)}),
                "weight": st.floats(0, 9),
                "limits": st.fixed_dictionaries({}, optional={"rpm": st.none() | st.integers(1, 99)}),
                "params": st.dictionaries(st.sampled_from(["seed", "api_version", "x_token"]), TEXTS),
            },
        )
    )
    def test_a_dump_loads_as_the_same_spec(self, deployment):
        """A dump holds what was written, so that nothing in it overrides what was not."""
        spec = spec_of(deployment=deployment)
        again = load_spec(spec.model_dump())
        assert again == spec
        assert again.timeouts("main", "a") == spec.timeouts("main", "a")

    def test_a_spec_that_does_not_fit_together_cannot_be_made(self):
        """Also where it is built as an object: what exists is whole."""
        with pytest.raises(ValueError, match="no deployment is called 'b'; did you mean"):
            Spec(deployments={"bb": {"model": "openai/x"}}, chains={"main": {"tiers": ["b"]}})


class TestSecrets:
    def spec(self):
        return spec_of(
            deployment={
                "api_key": CANARY,
                "params": {
                    "extra_headers": {"X-API-Key": CANARY, "Authorization": f"Bearer {CANARY}"},
                    "aws_secret": CANARY,
                    "vertex_credentials": {"private": [CANARY]},
                    "db-password": CANARY,
                    "endpoint": "${HOST}",
                },
            }
        )

    def test_no_secret_is_shown(self):
        """Not in a repr, a text, or a dump, however deep it stands."""
        spec = self.spec()
        shown = [
            repr(spec),
            str(spec),
            str(spec.model_dump()),
            spec.model_dump_json(),
            repr(spec.params("a")),
        ]
        assert not [text for text in shown if CANARY in text]

    def test_secrets_are_secrets_and_the_rest_is_plain(self):
        """Values under secret names and texts with variables are SecretStr; headers' names stay."""
        params = self.spec().params("a")
        assert params["extra_headers"]["X-API-Key"] == SecretStr(CANARY)
        assert params["vertex_credentials"] == {"private": [SecretStr(CANARY)]}
        assert params["endpoint"] == SecretStr("${HOST}")
        assert spec_of(deployment={"params": {"max_tokens": 5, "user": "u"}}).params("a") == {
            "max_tokens": 5,
            "user": "u",
        }

    def test_a_key_may_be_a_function(self):
        """A function is kept as it is, and its dump shows nothing of it."""
        spec = spec_of(deployment={"api_key": lambda: CANARY})
        assert spec.deployments["a"].api_key() == CANARY
        assert json.loads(spec.model_dump_json())["deployments"]["a"]["api_key"] == "**********"


class TestSchema:
    def test_it_is_a_schema_of_the_draft_it_names(self):
        """Editors read draft 2020-12."""
        schema = json_schema()
        assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"
        jsonschema.Draft202012Validator.check_schema(schema)

    def test_it_accepts_what_loads(self):
        """The contract's example, an `off` that YAML made false, and keys that begin with x-."""
        validator = jsonschema.Draft202012Validator(json_schema())
        example = (Path(__file__).parents[1] / "data" / "contract.yaml").read_text()
        validator.validate(yaml.safe_load(example))
        minimal = {"deployments": {"a": {"model": "x/y", "breaker": False, "price": "free"}}, "x-any": [1]}
        assert validator.is_valid({"$schema": "https://example.org", **minimal})

    @pytest.mark.parametrize(
        "wrong",
        [
            {"deployment": {}},
            {"deployments": {"a": {"model": "x/y", "base_url": "http://x"}}},
            {"deployments": {"a": {"model": "x/y", "backend": "hosted_vllm"}}},
            {"deployments": {"a": {"model": "x/y", "breaker": "on"}}},
            {"deployments": {"a": {"model": "x/y", "timeouts": {"total_s": 3}}}},
            {"deployments": {"a": {"model": "x/y", "profile": {"tools": True}}}},
            {"deployments": {"a": {"model": "x/y", "price": {"input_per_million": -1}}}},
            {"deployments": {"a": {"model": "x/y"}}, "chains": {"c": {"tiers": []}}},
            {
                "deployments": {"a": {"model": "x/y"}},
                "chains": {"c": {"tiers": ["a"], "on_stream_break": "x"}},
            },
            {
                "deployments": {"a": {"model": "x/y"}},
                "chains": {"c": {"tiers": ["a"], "retries": {"max": -1}}},
            },
        ],
    )
    def test_it_underlines_what_does_not_load(self, wrong):
        """An editor that knows the schema finds the mistake before we do."""
        assert not jsonschema.Draft202012Validator(json_schema()).is_valid(wrong)
        with pytest.raises(SpecError):
            load_spec(wrong)

    def test_every_field_says_what_it_means(self):
        """The reference is generated from the descriptions; none is missing."""
        schema = json_schema()
        parts = [schema, *schema["$defs"].values()]
        silent = [
            f"{part['title']}.{name}"
            for part in parts
            for name, field in part.get("properties", {}).items()
            if not field.get("description")
        ]
        assert silent == []

    def test_profiles_speak_langchain_s_words(self):
        """Our copy of ModelProfile has its words, no more and no fewer."""
        assert set(Profile.__annotations__) == set(ModelProfile.__annotations__)


SAMPLES = ("text", 7, 1.5, date(2026, 1, 2))


class TestPrompts:
    @given(st.text("ab{}:!.0[] %r", max_size=10))
    @example("{a:%Y}")
    @example("{a!r:>9}")
    def test_a_prompt_that_loads_is_one_langchain_fills(self, prompt):
        """With some value for each of its variables; whatever else would fail only when it is asked."""
        if prompt_flaw(prompt) is not None:
            return
        template = ChatPromptTemplate.from_template(prompt)
        assert any(
            is_filled(template, dict(zip(template.input_variables, values, strict=True)))
            for values in product(SAMPLES, repeat=len(template.input_variables))
        )

    @pytest.mark.parametrize("prompt", ["{text}", "{{}}", "{n:.2f} of {{x}}", "", "{a}{a}", "{when:%d %B}", "$ {x!s}"])
    def test_a_prompt_langchain_fills_loads(self, prompt):
        """With variables, formats and braces of its own."""
        assert prompt_flaw(prompt) is None

    @pytest.mark.parametrize(
        "prompt", ["{", "}", "{}", "{0}", "{a.b}", "{a[0]}", "{a b}", '{"a": 1}', "{a: int}", "{a:{b}}", "{a!x}"]
    )
    def test_a_prompt_that_cannot_be_filled_does_not_load(self, prompt):
        """Braces that were meant as such, positions, and what would reach into the input."""
        assert prompt_flaw(prompt) is not None


def is_filled(template, values):
    """Whether LangChain makes a prompt of these values."""
    with suppress(ValueError, TypeError):
        template.invoke(values)
        return True
    return False


class TestServe:
    def test_without_a_word_it_is_the_loopback_and_no_key(self):
        """Nobody is served by accident."""
        serve = spec_of().serve
        assert (serve.host, serve.port, serve.keys) == ("127.0.0.1", 8000, ())

    def test_its_keys_are_shown_to_nobody(self):
        """Not in a repr, not in a dump, and no pickle holds one in clear."""
        spec = spec_of(serve={"keys": [CANARY, "${CALLER_KEY}"]})
        assert CANARY not in repr(spec) + str(spec.model_dump()) + spec.model_dump_json()
        assert [reference.name for path, reference in spec.references() if path[:2] == ("serve", "keys")] == [
            "CALLER_KEY"
        ]
        with pytest.raises(TypeError, match="does not pickle"):
            pickle.dumps(spec)

    @pytest.mark.parametrize("wrong", [[12345678], [""], [["sk-1"]], [None]])
    def test_a_key_that_is_none_is_a_mistake_that_does_not_show_it(self, wrong):
        """It may be somebody's all the same."""
        with pytest.raises(SpecError, match=r"serve\.keys\[0\]: must be a text that is not empty") as raised:
            spec_of(serve={"keys": wrong})
        assert "12345678" not in str(raised.value)


def test_parts_of_a_spec_may_be_the_models_that_specs_have():
    """As a program puts them together that has them from another spec."""
    other = spec_of(deployment={"limits": {"rpm": 5}})
    made = load_spec(
        {"deployments": {"c": {"model": "openai/c", "limits": other.limits("a")}}, "chains": {"x": {"tiers": ["c"]}}}
    )
    assert made.limits("c").rpm == 5


def test_keys_of_callers_may_be_secrets_already():
    """They are not asked for a variable, and not shown."""
    made = spec_of(serve={"keys": [SecretStr(CANARY)]})
    assert made.serve.keys[0].get_secret_value() == CANARY
    assert CANARY not in repr(made)


def test_a_switch_is_no_number():
    """Python would take `true` for 1."""
    with pytest.raises(SpecError, match="must be a number, got true"):
        spec_of(deployment={"weight": True})


def test_a_model_without_a_provider_before_its_slash_is_told_what_to_write():
    """Whose it is cannot be guessed."""
    with pytest.raises(SpecError, match="must be 'provider/model'"):
        load_spec({"deployments": {"a": {"model": "/gpt-4.1"}}, "chains": {"x": {"tiers": ["a"]}}})
