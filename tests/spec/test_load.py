"""From files and mappings to a spec: what is read, how files overlay, and what each mistake is told."""

import json
import os
import subprocess
import sys
import traceback
from decimal import Decimal
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm_fallback.errors import SpecError
from llm_fallback.spec import load_spec
from llm_fallback.spec.load import merged

CONTRACT = Path(__file__).parents[1] / "data" / "contract.yaml"
CANARY = "sk-canary-0123456789abcdef"

BRACES = "write a name in braces, {{ and }} for braces themselves"
TWO = {
    "deployments": {"claude": {"model": "anthropic/claude"}, "gpt": {"model": "openai/gpt"}},
    "chains": {"main": {"tiers": ["claude", "gpt"]}},
}


@pytest.fixture
def write(tmp_path, monkeypatch):
    """Writes a file into the current directory and gives its name."""
    monkeypatch.chdir(tmp_path)

    def written(name, text):
        (tmp_path / name).write_text(text, encoding="utf-8")
        return name

    return written


def mistakes(*sources):
    """The texts of all mistakes in the sources."""
    with pytest.raises(SpecError) as caught:
        load_spec(*sources)
    return [str(mistake) for mistake in caught.value.mistakes]


def with_deployment(**fields):
    return {**TWO, "deployments": {**TWO["deployments"], "x": {"model": "openai/x", **fields}}}


def with_chain(**fields):
    return {**TWO, "chains": {"main": {"tiers": ["claude", "gpt"], **fields}}}


class TestTheContractsExample:
    def test_it_loads_but_for_two_words_it_only_illustrates(self):
        """It names a deployment `long` it does not define, and `raise` beside `accept`; all else is valid."""
        assert [text.partition(" ")[2] for text in mistakes(CONTRACT)] == [
            "chains.assistant.on_context_window[0]: no deployment is called 'long'; "
            "known are 'claude', 'gpt-azure', 'llama-a', 'llama-b'",
            "chains.assistant.on_stream_break: cannot be 'raise' beside 'accept': "
            "a reply must be whole before it is judged; write 'hold', or leave it out",
        ]

    def test_with_those_two_put_right_it_means_what_it_says(self):
        """Dates stay text, anchors merge, tiers nest, prices are exact, x- is ignored."""
        spec = load_spec(
            CONTRACT,
            {
                "deployments": {"long": {"model": "openai:gpt-4.1"}},
                "chains": {"assistant": {"on_stream_break": None}},
            },
        )
        assert spec.deployments["gpt-azure"].params["api_version"] == "2025-04-01"
        assert spec.deployments["llama-b"].api_base == "http://gpu-b:8000"
        assert spec.deployments["llama-b"].price.cached_input_per_million == Decimal("0.02")
        assert spec.chains["assistant"].tiers == (("claude",), ("llama-a", "llama-b"))
        assert spec.timeouts("assistant", "llama-b").first_token_s == 8
        assert spec.default_chain == "assistant"
        assert spec.runnables["summarise"].output == "text"


class TestSources:
    def test_yaml_toml_json_and_a_mapping_say_the_same(self, write):
        """The format is told by the suffix and makes no difference."""
        toml = (
            '[deployments.claude]\nmodel = "anthropic/claude"\n[deployments.gpt]\nmodel = "openai/gpt"\n'
            '[chains.main]\ntiers = ["claude", "gpt"]\n'
        )
        yaml = (
            "deployments:\n  claude: {model: anthropic/claude}\n  gpt: {model: openai/gpt}\n"
            "chains:\n  main: {tiers: [claude, gpt]}\n"
        )
        specs = [
            load_spec(write("a.yaml", yaml)),
            load_spec(Path(write("a.YML", yaml))),
            load_spec(write("a.toml", toml)),
            load_spec(write("a.json", json.dumps(TWO))),
            load_spec(TWO),
        ]
        assert all(spec == specs[0] for spec in specs)

    def test_a_spec_is_returned_as_it_is(self):
        """Whoever takes a source takes a spec too."""
        spec = load_spec(TWO)
        assert load_spec(spec) is spec
        assert load_spec(spec, {"chains": {"main": {"tiers": ["gpt"]}}}).chains["main"].tiers == (("gpt",),)

    def test_models_in_a_list_are_a_chain(self):
        """Names come from the models, clear where two share one, numbered where they are the same."""
        spec = load_spec(["anthropic/claude-sonnet-4-5", "openai:gpt-4.1", "azure/gpt-4.1", "xai/grok", "xai/grok"])
        assert spec.default_chain == "default"
        assert spec.chains["default"].tiers == (
            ("claude-sonnet-4-5",),
            ("openai/gpt-4.1",),
            ("azure/gpt-4.1",),
            ("xai/grok",),
            ("xai/grok#2",),
        )
        assert spec.deployments["openai/gpt-4.1"].model == "openai/gpt-4.1"
        assert load_spec(["openai/x"]) == load_spec(("openai/x",))

    def test_a_date_in_toml_is_text(self, write):
        """TOML knows dates, providers want their version as text."""
        name = write("a.toml", '[deployments.a]\nmodel = "azure/x"\n[deployments.a.params]\napi_version = 2025-04-01\n')
        assert load_spec(name).deployments["a"].params == {"api_version": "2025-04-01"}

    def test_one_chain_is_the_default(self):
        """It need not be named; of several one must be."""
        assert load_spec(TWO).default_chain == "main"
        several = {**TWO, "chains": {"a": {"tiers": ["gpt"]}, "b": {"tiers": ["gpt"]}}}
        assert mistakes(several) == ["default_chain: is missing: there are several chains ('a', 'b'); name one of them"]
        assert load_spec({**several, "default_chain": "b"}).default_chain == "b"

    def test_variables_stay_as_they_are(self, write):
        """Loading resolves nothing, so a spec can be checked where its variables are not set."""
        spec = load_spec(with_deployment(api_key="${NOT_SET_ANYWHERE}", api_base="${BASE:-http://x}"))
        assert spec.deployments["x"].api_key.get_secret_value() == "${NOT_SET_ANYWHERE}"

    def test_nothing_of_litellm_is_imported(self):
        """Mistakes are found in the time of an editor's check, not of a litellm import."""
        code = (
            "import sys, llm_fallback.spec, llm_fallback.plan.checks as c\n"
            f"c.check(llm_fallback.spec.load_spec({TWO!r}))\n"
            "sys.exit(bool({'litellm', 'langchain_litellm', 'aiohttp'} & set(sys.modules)))"
        )
        assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


class TestUnreadable:
    @pytest.mark.parametrize(
        ("name", "text", "told"),
        [
            ("a.yaml", "a: [1\nb: 2", "a.yaml:2: is not YAML: expected ',' or ']', but got ':'"),
            (
                "a.yaml",
                "a:\n\tb: 1",
                "a.yaml:2: is not YAML: found character '\\t' that cannot start any token",
            ),
            ("a.yaml", "a: *b", "a.yaml:1: is not YAML: found undefined alias 'b'"),
            ("a.yaml", "a: &a [*a]", "a.yaml:1: is not YAML: an anchor contains itself"),
            ("a.yaml", "a: 1\n---\nb: 2", "a.yaml:2: has several YAML documents; keep one per file"),
            ("a.yaml", "# nothing\n", "a.yaml: is empty"),
            ("a.yaml", "- a\n- b", "a.yaml:1: must be a mapping with deployments and chains"),
            ("a.json", '{"a": 1,\n "b": }', "a.json:2: is not JSON: Expecting value"),
            ("a.json", "[1]", "a.json:1: must be a mapping"),
            ("a.toml", "a = 1\nb = ]", "a.toml:2: is not TOML: Invalid value"),
            ("a.toml", "b = ", "a.toml: is not TOML: Invalid value"),
            ("a.json", "", "a.json: is empty"),
            ("a.ini", "a=1", "a.ini: has no suffix of .yaml, .yml, .toml, .json"),
        ],
    )
    def test_a_file_that_cannot_be_read_is_named_with_its_line(self, write, name, text, told):
        """Syntax, emptiness and suffix are told apart, without the file's content."""
        [found] = mistakes(write(name, text))
        assert found.startswith(told)

    def test_a_missing_file_is_named_with_its_neighbour(self, write):
        """A slip in a file's name is a slip like any other."""
        write("llm-fallback.yaml", "a: 1")
        assert mistakes("llm-fallbak.yaml") == [
            "llm-fallbak.yaml: there is no such file; did you mean 'llm-fallback.yaml'?"
        ]

    def test_every_unreadable_file_is_reported(self, write):
        """Two broken overlays are two mistakes, not one after the other."""
        assert len(mistakes(write("a.yaml", "["), write("b.json", "{"), TWO)) == 2

    def test_a_model_is_not_a_file(self):
        """Who writes a model where a file goes is told how to write a list."""
        assert mistakes("openai/gpt-4.1")[0].endswith("for a model write it as a list: ['openai/gpt-4.1']")

    def test_a_proxy_s_section_in_a_spec_is_a_mistake(self):
        """A file is one or the other; whoever mixes them is told where its content belongs."""
        assert mistakes({**TWO, "model_list": []}) == ["model_list: unknown key 'model_list'; here it is 'deployments'"]

    @pytest.mark.parametrize("sources", [(), ([],), (3,), (["a", 3],), ("deployments:\n  a: b",)])
    def test_what_is_no_source_is_a_mistake(self, sources):
        """Nothing at all, an empty list, a number, the text of a spec."""
        assert len(mistakes(*sources)) == 1


class TestKeys:
    def test_a_key_that_stands_twice_is_reported_with_both_lines(self, write):
        """PyYAML and json keep the last in silence; the one that is lost may be the one that was meant."""
        yaml = (
            "deployments:\n  a: {model: openai/a}\n  b:\n    model: openai/b\n"
            "    weight: 1\n    weight: 2\n  a: {model: x/y}\n"
        )
        assert mistakes(write("a.yaml", yaml)) == [
            "a.yaml:6 deployments.b.weight: 'weight' stands here a second time, first on line 5; keep one of them",
            "a.yaml:7 deployments.a: 'a' stands here a second time, first on line 2; keep one of them",
        ]
        text = '{"deployments": {\n "a": {"model": "openai/a"},\n "a": {"model": "openai/\\u0061"}}}'
        assert mistakes(write("a.json", text)) == [
            "a.json:3 deployments.a: 'a' stands here a second time, first on line 2; keep one of them"
        ]

    def test_a_merge_may_be_overridden(self, write):
        """`<<` brings keys that may stand once more beside it; their lines are those of the anchor."""
        text = (
            "x-base: &base\n  model: openai/a\n  weight: -1\n"
            "deployments:\n  a: {<<: *base, weight: 2}\n  b:\n    <<: *base\n"
        )
        assert mistakes(write("a.yaml", text)) == [
            "a.yaml:3 deployments.b.weight: must be at least 0, got -1",
        ]

    def test_a_key_that_is_no_text_is_told_how_to_be_one(self, write):
        """YAML 1.1 reads `no:` as false; quotes make it a name."""
        text = "deployments:\n  no: {model: openai/a}\n  1: {model: openai/b}\n"
        assert mistakes(write("a.yaml", text)) == [
            'a.yaml:2 deployments.no: YAML reads the key no as true or false, not as text; write "no" with quotes',
            'a.yaml:3 deployments.1: YAML reads the key 1 as a number, not as text; write "1" with quotes',
        ]
        assert mistakes({"deployments": {1: {"model": "openai/a"}}}) == [
            "deployments.1: the key 1 is not a text; write '1'"
        ]

    def test_numbers_may_be_written_with_an_exponent(self, write):
        """YAML 1.1 takes 1e6 for text; nobody means that."""
        fields = "model: openai/a, price: {input_per_million: 1e-3}, timeouts: {idle_s: 1e2}"
        deployment = load_spec(write("a.yaml", f"deployments:\n  a: {{{fields}}}\n")).deployments["a"]
        assert deployment.price.input_per_million == Decimal("0.001")
        assert deployment.timeouts.idle_s == 100


class TestMistakes:
    def test_all_of_them_come_at_once_in_the_order_of_the_file(self, write):
        """Wrong types, unknown keys, undefined names: none hides another."""
        text = (
            "deployments:\n"
            "  claude:\n"
            "    model: anthropic/claude\n"
            "    base_url: http://x\n"
            "    weight: heavy\n"
            "chains:\n"
            "  assistant:\n"
            "    tiers:\n"
            "      - claude\n"
            "      - [cluade]\n"
            "    timeouts: {total_s: 0}\n"
            "  cheap: {}\n"
        )
        assert mistakes(write("llm-fallback.yaml", text)) == [
            "llm-fallback.yaml:1 default_chain: is missing: there are several chains ('assistant', 'cheap'); "
            "name one of them",
            "llm-fallback.yaml:4 deployments.claude.base_url: unknown key 'base_url'; here it is 'api_base'",
            "llm-fallback.yaml:5 deployments.claude.weight: must be a number, got 'heavy'",
            "llm-fallback.yaml:10 chains.assistant.tiers[1][0]: no deployment is called 'cluade'; "
            "did you mean 'claude'?",
            "llm-fallback.yaml:11 chains.assistant.timeouts.total_s: must be greater than 0, got 0",
            "llm-fallback.yaml:12 chains.cheap.tiers: is missing",
        ]

    def test_json_has_lines_too(self, write):
        """The line is that of the key, however the file is laid out."""
        text = '{"deployments": {"a": {\n  "model": "openai/a",\n  "weight":\n    -1,\n  "limits": {"rpm": 0}}}}'
        assert mistakes(write("a.json", text)) == [
            "a.json:3 deployments.a.weight: must be at least 0, got -1",
            "a.json:5 deployments.a.limits.rpm: must be at least 1, got 0",
        ]

    def test_where_json_and_yaml_read_a_key_differently_there_is_no_line(self, write):
        """The mistake is told all the same."""
        text = '{"x-\\ud83d\\ude00": 1, "deployments": {"a": {\n  "model": "openai/a", "weight": -1}}}'
        assert mistakes(write("a.json", text)) == ["a.json deployments.a.weight: must be at least 0, got -1"]

    @pytest.mark.parametrize(
        ("word", "told"),
        [
            ("base_url", "api_base"),
            ("num_retries", "chains.<name>.retries.max"),
            ("stream_timeout", "timeouts.first_token_s"),
            ("request_timeout", "timeouts.attempt_s"),
            ("allowed_fails", "breaker.failures"),
            ("cooldown_time", "breaker.cooldown_s"),
            ("fallbacks", "chains.<name>.tiers"),
            ("max_model_len", "context_window"),
            ("max_parallel_requests", "limits.max_parallel"),
            ("temperature", "params.temperature"),
            ("timeout", "timeouts.attempt_s"),
        ],
    )
    def test_words_from_elsewhere_are_translated(self, word, told):
        """litellm's and LangChain's words lead to ours, where they belong."""
        assert mistakes(with_deployment(**{word: 3})) == [
            f"deployments.x.{word}: unknown key {word!r}; here it is {told!r}"
        ]

    def test_a_price_per_token_that_is_no_number_is_told_the_unit(self):
        """There is nothing to convert."""
        [found] = mistakes(with_deployment(input_cost_per_token="cheap"))
        assert found.endswith("here it is 'price.input_per_million', a million times as much")

    def test_a_price_per_token_is_converted(self):
        """Who copies litellm's number gets ours."""
        [found] = mistakes(with_deployment(input_cost_per_token=0.000003))
        assert found.endswith("here it is 'price.input_per_million', a million times as much: 3")

    @pytest.mark.parametrize(
        ("chain", "told"),
        [
            ({"timeout": 3}, "chains.main.timeout: unknown key 'timeout'; here it is 'timeouts.total_s'"),
            (
                {"num_retries": 3},
                "chains.main.num_retries: unknown key 'num_retries'; here it is 'retries.max'",
            ),
            (
                {"total_s": 3},
                "chains.main.total_s: unknown key 'total_s'; it stands in 'timeouts': timeouts.total_s",
            ),
            ({"rpm": 3}, "chains.main.rpm: unknown key 'rpm'; here it is 'deployments.<name>.limits.rpm'"),
            ({"tires": []}, "chains.main.tires: unknown key 'tires'; did you mean 'tiers'?"),
            (
                {"on_stream_break": "holt"},
                "chains.main.on_stream_break: must be 'raise', 'continue' or 'hold', got 'holt'; did you mean 'hold'?",
            ),
            (
                {"hedge": {"after_s": "p96"}},
                "chains.main.hedge.after_s: must be 'p95' or a number of seconds, got 'p96'; did you mean 'p95'?",
            ),
            ({"retries": {"max": 1.5}}, "chains.main.retries.max: must be a whole number, got 1.5"),
            ({"timeouts": {"total_s": None}}, "chains.main.timeouts.total_s: must be a number, got null"),
            ({"timeouts": {"idle_s": True}}, "chains.main.timeouts.idle_s: must be a number, got true"),
            (
                {"timeouts": {"idle_s": float("inf")}},
                "chains.main.timeouts.idle_s: must be a finite number, got inf",
            ),
            (
                {"timeouts": {"idle_s": "${S}"}},
                "chains.main.timeouts.idle_s: must be a number, got '${S}'; "
                "variables stand only in model, base_model, api_key, api_base, params, budget.file and fleet",
            ),
            (
                {"accept": "good"},
                "chains.main.accept: must be an import path like 'package.module:name', got 'good'",
            ),
            ({"budget": {"usd_per_day": -1}}, "chains.main.budget.usd_per_day: must be at least 0, got -1"),
            ({"budget": {"usd_per_day": 1, "per": ""}}, "chains.main.budget.per: is empty"),
            (
                {"budget": {"usd_per_day": 1, "file": "${A"}},
                "chains.main.budget.file: has a '${' that begins no variable; "
                "write ${NAME}, ${NAME:-default} or ${NAME:?message}; for the characters themselves write $${",
            ),
            ({"tiers": []}, "chains.main.tiers: is empty"),
            ({"tiers": ["gpt", []]}, "chains.main.tiers[1]: is empty"),
            ({"tiers": "gpt"}, "chains.main.tiers: must be a list, got 'gpt'"),
            (
                {"tiers": ["gpt", ["claude", "gpt"]]},
                "chains.main.tiers[1][1]: 'gpt' stands here a second time; it is at chains.main.tiers[0] already",
            ),
            (
                {"tiers": ["claude", 5]},
                "chains.main.tiers[1]: must be a deployment's name or a list of names, got 5",
            ),
            (
                {"accept": "a.b:c", "on_stream_break": "continue"},
                "chains.main.on_stream_break: cannot be 'continue' beside 'accept': "
                "a reply must be whole before it is judged; write 'hold', or leave it out",
            ),
        ],
    )
    def test_mistakes_in_a_chain(self, chain, told):
        """Each names the place, the value and what to write."""
        assert mistakes(with_chain(**chain)) == [told]

    @pytest.mark.parametrize(
        ("deployment", "told"),
        [
            (
                {"limits": {"max_parallel": "atuo"}},
                "deployments.x.limits.max_parallel: must be 'auto' or a whole number, got 'atuo'; did you mean 'auto'?",
            ),
            (
                {"limits": {"max_parallel": 0}},
                "deployments.x.limits.max_parallel: must be at least 1, got 0",
            ),
            ({"weigth": 2}, "deployments.x.weigth: unknown key 'weigth'; did you mean 'weight'?"),
            (
                {"model": "gpt-4.1"},
                "deployments.x.model: 'gpt-4.1' names no provider; write 'openai/gpt-4.1'",
            ),
            (
                {"model": "anthropic.claude-3-v1:0"},
                "deployments.x.model: 'anthropic.claude-3-v1:0' names no provider; "
                "write 'bedrock/anthropic.claude-3-v1:0'",
            ),
            (
                {"model": "trtllm/llama"},
                "deployments.x.model: 'trtllm' is no provider of litellm's; "
                "write backend: tensorrt-llm, model: llama, and its api_base",
            ),
            (
                {"model": "aiohttp_openai/m"},
                "deployments.x.model: litellm follows redirects of 'aiohttp_openai' to any host; write 'openai/m'",
            ),
            ({"backend": {"vllm": 1}}, "deployments.x.backend: must be a string, got a mapping"),
            ({"model": "openai/\ud83d"}, "deployments.x.model: there is half a character, got 'openai/\\ud83d'"),
            (
                {"backend": "trtllm", "api_base": "http://x"},
                "deployments.x.backend: no backend is called 'trtllm'; the backend is called 'tensorrt-llm' here",
            ),
            (
                {"backend": "vllm"},
                "deployments.x.api_base: is missing: backend 'vllm' needs its server's address; "
                "write it as in 'http://host:8000'",
            ),
            (
                {"backend": "vllm", "api_base": "http://x", "model": "hosted_vllm/meta/llama"},
                "deployments.x.model: with backend 'vllm' the model is the name it is served under; write 'meta/llama'",
            ),
            (
                {"api_base": "gpu:8000"},
                "deployments.x.api_base: must be an address that begins with http:// or https://, got 'gpu:8000'",
            ),
            (
                {"timeouts": {"total_s": 3}},
                "deployments.x.timeouts.total_s: unknown key 'total_s'; here it is 'chains.<name>.timeouts.total_s'",
            ),
            (
                {"price": "fre"},
                "deployments.x.price: must be 'free' or a mapping, got 'fre'; did you mean 'free'?",
            ),
            ({"price": {}}, "deployments.x.price: is empty; write a price, or 'price: free'"),
            (
                {"profile": {"tool_caling": True}},
                "deployments.x.profile.tool_caling: unknown key 'tool_caling'; did you mean 'tool_calling'?",
            ),
            (
                {"params": {"api_base": "http://x"}},
                "deployments.x.params.api_base: 'api_base' cannot be a parameter; "
                "write it as the deployment's own 'api_base'",
            ),
            (
                {"api_key": "${KEY"},
                "deployments.x.api_key: has a '${' that begins no variable; "
                "write ${NAME}, ${NAME:-default} or ${NAME:?message}; "
                "for the characters themselves write $${",
            ),
            ({"api_key": ""}, "deployments.x.api_key: is empty; leave it out where no key is needed"),
            ({"breaker": {"failures": 0}}, "deployments.x.breaker.failures: must be at least 1, got 0"),
            ({"context_window": "32k"}, "deployments.x.context_window: must be a whole number, got '32k'"),
        ],
    )
    def test_mistakes_in_a_deployment(self, deployment, told):
        """Each names the place, the value and what to write."""
        assert mistakes(with_deployment(**deployment)) == [told]

    @pytest.mark.parametrize(
        ("rest", "told"),
        [
            ({"default_chain": "mian"}, "default_chain: no chain is called 'mian'; did you mean 'main'?"),
            (
                {"runnables": {"r": {"chain": "cheap", "prompt": "{x}"}}},
                "runnables.r.chain: no chain is called 'cheap'; there are 'main'",
            ),
            (
                {"runnables": {"r": {"prompt": "{x}", "output": "xml"}}},
                "runnables.r.output: must be 'text', 'json' or an import path like 'package.module:Model', got 'xml'",
            ),
            (
                {"runnables": {"r": {"prompt": "{x}", "output": "jsn"}}},
                "runnables.r.output: must be 'text', 'json' or an import path like 'package.module:Model', got 'jsn'; "
                "did you mean 'json'?",
            ),
            ({"runnables": {"r": {"prompt": ""}}}, "runnables.r.prompt: is empty"),
            ({"runnables": {"r": {"prompt": "{}"}}}, f"runnables.r.prompt: {{}} is no variable; {BRACES}"),
            (
                {"runnables": {"r": {"prompt": 'as in {"a": 1}'}}},
                f"""runnables.r.prompt: {{"a": 1}} is no variable; {BRACES}""",
            ),
            (
                {"runnables": {"r": {"prompt": "{text"}}},
                f"runnables.r.prompt: has a brace that belongs to no variable (expected '}}' before end of string); "
                f"{BRACES}",
            ),
            ({"runnables": {"r": {"promt": "{x}"}}}, "runnables.r.promt: unknown key 'promt'; did you mean 'prompt'?"),
            ({"chain": {}}, "chain: unknown key 'chain'; did you mean 'chains'?"),
            ({"deployments": None}, "deployments: is missing"),
            ({"chains": {" ": {"tiers": ["gpt"]}}}, "chains. : has an empty name"),
            (
                {"chains": {"main": {"tiers": ["nobody"], "zones": ["eu"]}}},
                "chains.main.tiers[0]: no deployment is called 'nobody'; known are 'claude', 'gpt'",
            ),
            ({"\udfff": 1}, "there is half a character, got '\\udfff'"),
        ],
    )
    def test_mistakes_at_the_top(self, rest, told):
        """Names and keys of the whole spec."""
        assert told in mistakes({**TWO, **rest})

    def test_one_mistake_is_reported_once(self):
        """What is wrong in the only item of a list or mapping does not make it empty as well."""
        assert mistakes({"deployments": {"a": 5}}) == ["deployments.a: must be a mapping, got 5"]
        assert mistakes(with_chain(tiers=[["gpt", ["claude"]]])) == [
            "chains.main.tiers[0][1]: must be a string, got a list"
        ]

    def test_a_judge_in_the_defaults_counts_for_every_chain(self):
        """What fits together is decided on what holds, not on what stands in one place."""
        assert mistakes({**with_chain(on_stream_break="raise"), "defaults": {"accept": "a.b:c"}})


class TestSecretsInMistakes:
    WRONG = with_deployment(
        api_key=[CANARY],
        openai_api_key=CANARY,
        params={"api_key": CANARY, "extra_headers": {"X-Key": {"deep": CANARY}, "b": "${"}},
        extra_headers={"Authorization": CANARY},
        api_base=CANARY,
        weight="x",
    )

    def test_no_secret_is_named_wherever_it_was_written(self, write):
        """Not even a key written into the wrong field."""
        for source in (
            self.WRONG,
            write("a.yaml", json.dumps(self.WRONG)),
            write("a.json", json.dumps(self.WRONG)),
        ):
            with pytest.raises(SpecError) as caught:
                load_spec(source)
            assert len(caught.value.mistakes) >= 7
            assert CANARY not in str(caught.value)
            assert CANARY not in repr(caught.value.mistakes)

    def test_no_frame_of_ours_holds_the_source(self, write):
        """A traceback with locals, as error trackers send it, shows no key; no other error is chained."""
        for source in (self.WRONG, [self.WRONG], write("a.yaml", json.dumps(self.WRONG))):
            with pytest.raises(SpecError) as caught:
                load_spec(source)
            ours = [frame for frame, _ in traceback.walk_tb(caught.value.__traceback__)][1:]
            assert ours
            assert CANARY not in str([frame.f_locals for frame in ours])
            assert (caught.value.__cause__, caught.value.__context__) == (None, None)

    def test_a_syntax_error_shows_nothing_of_the_file(self, write):
        """PyYAML quotes the line it stumbles over; we do not."""
        [found] = mistakes(write("a.yaml", f'deployments:\n  a: {{api_key: "{CANARY}\n'))
        assert CANARY not in found


OK = "deployments: {a: {model: openai/gpt-4o}}\nchains: {c: {tiers: [a]}}\n"
BOMB = "x-0: &l0 [a]\n" + "".join(f"x-{i}: &l{i} [{', '.join([f'*l{i - 1}'] * 9)}]\n" for i in range(1, 9))
MERGES = "x-0: &l0 {a: 1}\n" + "".join(f"x-{i}: &l{i} {{<<: [{', '.join([f'*l{i - 1}'] * 9)}]}}\n" for i in range(1, 9))


class TestNoSpec:
    """What is made to be no spec, or happens to be none, is a SpecError as soon as that shows."""

    @pytest.mark.parametrize(
        ("name", "text", "told"),
        [
            ("a.yaml", BOMB + OK, "has more than 100,000 values"),
            ("a.yaml", MERGES + OK, "has more than 100,000 values"),
            ("a.yaml", "x-a: " + "[" * 5000 + "]" * 5000, "is nested more than 100 deep"),
            (
                "a.yaml",
                "x-0: &l0 [a]\n" + "".join(f"x-{i}: &l{i} [*l{i - 1}]\n" for i in range(1, 500)) + OK,
                "100 deep",
            ),
            ("a.json", "[" * 100_000, "is nested more than 100 deep"),
            ("a.json", '{"x-a": ' + "[" * 150 + "]" * 150 + "}", "is nested more than 100 deep"),
            ("a.toml", "x = " + "[" * 5000, "is nested more than 100 deep"),
            ("a.json", '{"x-a": ' + "9" * 5000 + "}", "has a number of more than 300 digits"),
            ("a.toml", "x-a = " + "9" * 5000, "has a number of more than 300 digits"),
            ("a.toml", "x-a = 0x" + "f" * 5000, "has a number of more than 300 digits"),
            ("a.yaml", "x-a: " + "9" * 5000, "has a number of more than 300 digits"),
            ("a.yaml", "x-a: 0x" + "f" * 5000, "has a number of more than 300 digits"),
            ("a.yaml", "x-a: 1" + ":59" * 5000, "has a number of more than 300 digits"),
            ("a.yaml", "? [a, b]\n: 1\n" + OK, "a key is no text"),
            ("a.yaml", "x-a: !!bool maybe\n" + OK, "does not fit its YAML type"),
            ("a.yaml", "x-a: !!int ''\n" + OK, "does not fit its YAML type"),
            ("a.yaml", "x-a: !!timestamp soon\n" + OK, "does not fit its YAML type"),
            ("a.yaml", OK + "x-a: " + "a" * 70_000 + "\nx-b: [", "a.yaml:5: is not YAML"),
            ("a.yaml", "#" * 2_000_000, "is larger than 1,048,576 bytes"),
        ],
    )
    @pytest.mark.timeout(20)
    def test_a_file_that_is_too_much_is_told_so(self, write, name, text, told):
        """References that multiply, nesting, numbers without an end, values against their tags, sheer size."""
        assert told in "\n".join(mistakes(write(name, text)))

    @pytest.mark.timeout(20)
    def test_a_pipe_and_a_device_are_not_waited_for(self, tmp_path):
        """Opening a pipe waits for who writes into it, and /dev/zero has no end."""
        os.mkfifo(tmp_path / "pipe.yaml")
        (tmp_path / "zero.yaml").symlink_to("/dev/zero")
        for name in ("pipe.yaml", "zero.yaml"):
            [told] = mistakes(tmp_path / name)
            assert "is neither a file nor a link to one" in told

    @pytest.mark.parametrize("name", ["a\0.yaml", "\ud83d.yaml", "a" * 5000 + ".yaml"])
    def test_what_cannot_be_a_file_s_name_is_told_so(self, name):
        """No name of a file is an error of another kind."""
        [told] = mistakes(name)
        assert "cannot be" in told

    def test_a_mapping_that_contains_itself_is_told_so(self):
        """Python's mappings can, and a walk through one would not end."""
        around = {**TWO}
        around["x-self"] = around
        assert mistakes(around) == ["is nested more than 100 deep"]

    @pytest.mark.timeout(20)
    def test_twenty_thousand_unknown_keys_are_all_told(self, write):
        """The right key is looked up for the first hundred: nobody reads more."""
        keys = ", ".join(f"unknown_{number}: 1" for number in range(20_000))
        told = mistakes(
            write("a.yaml", f"deployments: {{a: {{model: openai/m, {keys}}}}}\nchains: {{c: {{tiers: [a]}}}}")
        )
        assert len(told) == 20_000
        assert "; known are params, " in told[0]
        assert told[-1] == "a.yaml:1 deployments.a.unknown_19999: unknown key 'unknown_19999'"


VALUES = st.integers(0, 3) | st.lists(st.integers(0, 3), max_size=2)
SAME_SHAPE = st.fixed_dictionaries(
    {},
    optional={
        "a": VALUES,
        "b": st.fixed_dictionaries({}, optional={"c": VALUES, "d": st.fixed_dictionaries({}, optional={"e": VALUES})}),
    },
)


class TestOverlays:
    def test_later_wins_mappings_merge_lists_replace_null_removes(self, write):
        """The four rules, over three kinds of source."""
        base = write(
            "base.yaml",
            "deployments:\n  a: {model: openai/a, weight: 2, limits: {rpm: 1, tpm: 2}}\n"
            "  b: {model: openai/b}\n"
            "chains: {main: {tiers: [a, b], timeouts: {idle_s: 5, attempt_s: 9}}}\n",
        )
        prod = write("prod.toml", '[deployments.a.limits]\nrpm = 9\n[chains.main]\ntiers = ["a"]\n')
        spec = load_spec(base, prod, {"deployments": {"b": None}, "chains": {"main": {"timeouts": {"idle_s": None}}}})
        assert list(spec.deployments) == ["a"]
        assert spec.deployments["a"].weight == 2
        assert (spec.limits("a").rpm, spec.limits("a").tpm) == (9, 2)
        assert spec.chains["main"].tiers == (("a",),)
        assert (spec.timeouts("main").idle_s, spec.timeouts("main").attempt_s) == (60, 9)

    def test_a_mistake_is_told_of_the_file_it_stands_in(self, write):
        """Each value keeps the place it came from."""
        base = write(
            "base.yaml",
            "deployments:\n  a:\n    weight: -1\n    model: openai/a\nchains: {main: {tiers: [a]}}\n",
        )
        prod = write("prod.yaml", "chains:\n  main:\n    tiers: [b]\ndeployments:\n  a: {breaker: maybe}\n")
        assert mistakes(base, prod) == [
            "base.yaml:3 deployments.a.weight: must be at least 0, got -1",
            "prod.yaml:3 chains.main.tiers[0]: no deployment is called 'b'; known are 'a'",
            "prod.yaml:5 deployments.a.breaker: must be 'off' or a mapping, got 'maybe'",
        ]
        assert mistakes(base, {"deployments": {"a": {"weight": -2}}}) == [
            "deployments.a.weight: must be at least 0, got -2"
        ]

    def test_a_list_of_models_may_be_overlaid(self):
        """The chain in one line is a spec like any other."""
        spec = load_spec(["openai/a", "openai/b"], {"chains": {"default": {"timeouts": {"total_s": 9}}}})
        assert spec.timeouts("default").total_s == 9

    @given(SAME_SHAPE, SAME_SHAPE, SAME_SHAPE)
    def test_overlaying_is_associative(self, a, b, c):
        """Of documents of one shape it does not matter which two are joined first."""
        assert merged(merged(a, b), c) == merged(a, merged(b, c))

    @given(SAME_SHAPE)
    def test_nothing_and_itself_change_nothing(self, a):
        """An empty overlay, an empty base and the same again leave a document as it is."""
        assert merged(a, {}) == merged({}, a) == merged(a, a) == a

    @given(SAME_SHAPE, SAME_SHAPE)
    def test_neither_document_is_changed(self, a, b):
        """Overlaying makes a new document."""
        before = json.dumps([a, b])
        merged(a, b)
        assert json.dumps([a, b]) == before
