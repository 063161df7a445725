"""A spec as a proxy's configuration: what is written, what is said of the rest, and that LiteLLM runs it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import litellm
import pytest
import yaml

from llm_fallback import load_spec
from llm_fallback.spec.dump import as_yaml, dump_spec
from llm_fallback.spec.litellm_proxy.words import PRICES
from llm_fallback.spec.litellm_proxy.write import write_config
from llm_fallback.spec.settings import Price
from llm_fallback.testing import Fail, FakeServer

CANARY = "sk-canary-0123456789abcdef"
HOSTED = {"model": "anthropic/claude-sonnet-4-5", "api_key": "${ANTHROPIC_API_KEY}"}
OWN = {"backend": "vllm", "model": "Qwen/Qwen3-32B", "api_base": "http://gpu-a:8000"}


def spec_of(chain: Any = None, deployments: dict[str, Any] | None = None, **more: Any):
    """A spec of one chain, `main`, over deployments a and b unless others are named."""
    own = {"a": OWN, "b": HOSTED} if deployments is None else deployments
    return load_spec({"deployments": own, "chains": {"main": {"tiers": list(own), **(chain or {})}}, **more})


def written(spec):
    return write_config(spec)[0]


def noted(spec):
    return {note.path: note.text for note in write_config(spec)[1] if note.path != "general_settings.master_key"}


class TestRows:
    def test_each_member_of_each_tier_is_a_row(self):
        """Of its chain's group in the first tier, of `<chain>/2` in the second; ids are `<chain>/<deployment>`."""
        rows = written(spec_of())["model_list"]
        assert [(row["model_name"], row["model_info"]["id"]) for row in rows] == [
            ("main", "main/a"),
            ("main/2", "main/b"),
        ]

    def test_a_row_says_all_that_litellm_has_a_word_for(self):
        """In `litellm_params` what is done, in `model_info` what is known."""
        own = {
            **OWN,
            "api_key": "${VLLM_KEY}",
            "params": {"temperature": 0.2},
            "limits": {"rpm": 600, "tpm": 1000, "max_parallel": 32},
            "timeouts": {"attempt_s": 20, "first_token_s": 3},
            "weight": 2,
            "breaker": {"failures": 5, "cooldown_s": 60},
            "base_model": "qwen3",
            "price": {"input_per_million": 0.2, "output_per_million": 0.4, "per_request": 0.01},
            "context_window": 32768,
            "profile": {"tool_calling": True, "image_inputs": False},
        }
        assert written(spec_of(deployments={"a": own}))["model_list"] == [
            {
                "model_name": "main",
                "litellm_params": {
                    "model": "hosted_vllm/Qwen/Qwen3-32B",
                    "api_base": "http://gpu-a:8000/v1",
                    "api_key": "os.environ/VLLM_KEY",
                    "temperature": 0.2,
                    "rpm": 600,
                    "tpm": 1000,
                    "max_parallel_requests": 32,
                    "cooldown_time": 60,
                    "timeout": 20,
                    "stream_timeout": 3,
                    "weight": 2,
                },
                "model_info": {
                    "id": "main/a",
                    "base_model": "qwen3",
                    "max_input_tokens": 32768,
                    "supports_function_calling": True,
                    "supports_vision": False,
                    "input_cost_per_token": 2e-07,
                    "output_cost_per_token": 4e-07,
                    "input_cost_per_query": 0.01,
                    "allowed_fails": 5,
                },
            }
        ]

    def test_a_limit_that_is_found_is_none_of_litellm_s(self):
        """It has no word for it, and says so rather than taking `auto` for a number."""
        spec = spec_of(deployments={"a": {**OWN, "limits": {"max_parallel": "auto", "rpm": 6}}})
        assert "max_parallel_requests" not in written(spec)["model_list"][0]["litellm_params"]
        assert noted(spec) == {"deployments.a.limits.max_parallel": "LiteLLM finds no limit by itself"}

    def test_a_server_without_a_key_gets_a_word_that_is_none(self):
        """Without any, LiteLLM would send it the key of OpenAI. A hosted model without one is left to LiteLLM."""
        rows = written(spec_of(deployments={"a": OWN, "b": {"model": "openai/gpt-4.1"}}))["model_list"]
        assert rows[0]["litellm_params"]["api_key"] == "no-key"
        assert "api_key" not in rows[1]["litellm_params"]

    @pytest.mark.parametrize("backend", ["tensorrt-llm", "ray-serve", "openllm"])
    def test_backends_that_litellm_asks_alike_are_told_apart(self, backend):
        """In `model_info`, where LiteLLM passes it over and `load_spec` finds it again."""
        config = written(spec_of(deployments={"a": {**OWN, "backend": backend}}))
        assert load_spec(config).deployments["a"].backend == backend

    def test_texts_within_lists_are_written_like_others(self):
        """A variable is a reference there, too."""
        own = {"a": {**OWN, "params": {"stop": ["${STOP}", "END"]}}}
        [row] = written(spec_of(deployments=own))["model_list"]
        assert row["litellm_params"]["stop"] == ["os.environ/STOP", "END"]

    def test_members_of_a_tier_have_a_weight(self):
        """Without one, LiteLLM would share their load by rpm."""
        limited = {**OWN, "limits": {"rpm": 6}}
        rows = written(spec_of({"tiers": [["a", "b"]]}, {"a": limited, "b": OWN}))["model_list"]
        assert [row["litellm_params"]["weight"] for row in rows] == [1, 1]

    def test_who_is_out_of_rotation_is_left_out(self):
        """LiteLLM would ask it after all; that is said."""
        spec = spec_of(deployments={"a": OWN, "b": {**HOSTED, "weight": 0}})
        assert [row["model_info"]["id"] for row in written(spec)["model_list"]] == ["main/a"]
        assert list(noted(spec)) == ["deployments.b.weight"]


class TestVariables:
    def test_a_variable_becomes_a_reference_of_litellm_s(self):
        """At any depth; a `$$` becomes the one it stands for."""
        spec = spec_of(deployments={"a": {**HOSTED, "params": {"extra_headers": {"X-Key": "${X}"}, "user": "a$$b"}}})
        params = written(spec)["model_list"][0]["litellm_params"]
        assert params["api_key"] == "os.environ/ANTHROPIC_API_KEY"
        assert (params["extra_headers"], params["user"]) == ({"X-Key": "os.environ/X"}, "a$b")

    @pytest.mark.parametrize("secret", [CANARY, lambda: CANARY, f"{CANARY}${{X}}", f"${{X:-{CANARY}}}"])
    def test_a_key_in_clear_becomes_a_variable_that_is_named(self, secret):
        """Named after its deployment; the key is nowhere."""
        config, notes = write_config(spec_of(deployments={"gpu-a": {**HOSTED, "api_key": secret}}))
        assert config["model_list"][0]["litellm_params"]["api_key"] == "os.environ/GPU_A_API_KEY"
        assert "GPU_A_API_KEY" in " ".join(note.text for note in notes)
        assert CANARY not in json.dumps(config) + repr(notes) + as_yaml(config)

    def test_one_key_in_clear_is_one_variable_and_two_are_two(self):
        """However alike the names of their deployments are."""
        keys = {"a-b": CANARY, "a.b": f"{CANARY}-2", "c": CANARY}
        rows = written(spec_of(deployments={n: {**HOSTED, "api_key": key} for n, key in keys.items()}))["model_list"]
        assert [row["litellm_params"]["api_key"] for row in rows] == [
            "os.environ/A_B_API_KEY",
            "os.environ/A_B_API_KEY_2",
            "os.environ/A_B_API_KEY",
        ]

    def test_a_variable_within_a_text_becomes_one_for_the_whole(self):
        """LiteLLM knows no other; what it must be set to is said, unless it is a secret."""
        own = {**OWN, "api_base": "http://${HOST}:8000", "params": {"extra_headers": {"X-Token": "Bearer ${T}"}}}
        spec = spec_of(deployments={"a": own})
        params = written(spec)["model_list"][0]["litellm_params"]
        assert params["api_base"] == "os.environ/A_API_BASE"
        assert params["extra_headers"] == {"X-Token": "os.environ/A_EXTRA_HEADERS_X_TOKEN"}
        assert noted(spec)["deployments.a.api_base"].endswith("set A_API_BASE to 'http://${HOST}:8000/v1'")
        assert noted(spec)["deployments.a.params.extra_headers.X-Token"].endswith("to what stands there")

    def test_what_a_variable_loses_is_said(self):
        """A default, and the /v1 a backend would add to an address."""
        spec = spec_of(
            deployments={"a": {"model": "openai/x", "api_base": "${GPU:-http://g}"}, "b": {**OWN, "api_base": "${GPU}"}}
        )
        assert {row["litellm_params"]["api_base"] for row in written(spec)["model_list"]} == {"os.environ/GPU"}
        assert "usually to 'http://g'" in noted(spec)["deployments.a.api_base"]
        assert "must have it" in noted(spec)["deployments.b.api_base"]

    def test_a_password_in_an_address_is_a_secret(self):
        """The address as a whole becomes a variable."""
        config, notes = write_config(spec_of(deployments={"a": {**OWN, "api_base": f"http://me:{CANARY}@gpu:8000"}}))
        assert CANARY not in json.dumps(config) + repr(notes)
        assert config["model_list"][0]["litellm_params"]["api_base"] == "os.environ/A_API_BASE"


class TestSettings:
    def test_routing_is_as_in_a_chain(self):
        """No repeats before the next is asked, all members of a group before the next group, as many as there are."""
        assert written(spec_of())["router_settings"] == {
            "routing_strategy": "simple-shuffle",
            "enable_weighted_failover": True,
            "num_retries": 0,
            "max_fallbacks": 2,
            "allowed_fails": 3,
            "cooldown_time": 30,
            "fallbacks": [{"main": ["main/2"]}],
        }

    def test_routes_of_one_chain_oblige_the_others(self):
        """Once there is any entry LiteLLM ends the call of whoever has none; here they go on to their tiers."""
        chains = {
            "x": {"tiers": ["a", "b"], "on_context_window": ["b"]},
            "y": {"tiers": ["a", "b"]},
            "z": {"tiers": ["a"]},
        }
        spec = load_spec({"deployments": {"a": OWN, "b": HOSTED}, "chains": chains, "default_chain": "y"})
        settings = written(spec)["router_settings"]
        assert settings["fallbacks"] == [{"y": ["y/2"]}, {"x": ["x/2"]}]
        assert settings["context_window_fallbacks"] == [{"y": ["y/2"]}, {"x": ["x/on_context_window"]}]
        assert "content_policy_fallbacks" not in settings

    def test_a_breaker_that_is_off_is_off(self):
        """Of all, or of one."""
        assert written(spec_of(defaults={"breaker": "off"}))["router_settings"]["disable_cooldowns"] is True
        rows = written(spec_of(deployments={"a": {**OWN, "breaker": "off"}, "b": HOSTED}))["model_list"]
        assert [row["litellm_params"].get("cooldown_time") for row in rows] == [0, None]

    def test_a_group_never_has_the_name_of_a_chain_or_an_id(self):
        """LiteLLM takes an id that is a group's name for the group."""
        chains = {"a": {"tiers": ["2", "b"]}, "a/2": {"tiers": ["b"]}}
        spec = load_spec({"deployments": {"2": OWN, "b": HOSTED}, "chains": chains, "default_chain": "a"})
        rows = written(spec)["model_list"]
        groups, ids = [row["model_name"] for row in rows], [row["model_info"]["id"] for row in rows]
        assert groups == ["a", "a//2", "a/2"]
        assert not {*groups} & {*ids}
        assert load_spec(written(spec)).chains.keys() == {"a", "a/2"}


def test_who_is_outside_of_a_chains_zones_is_left_out():
    """A proxy knows no zones, so it must not know the deployment."""
    spec = spec_of(
        {"tiers": ["a", "b"], "zones": ["own"]}, {"a": {**OWN, "zone": "own"}, "b": {**HOSTED, "zone": "us"}}
    )
    assert [row["model_info"]["id"] for row in written(spec)["model_list"]] == ["main/a"]


def test_what_litellm_has_no_word_for_is_listed():
    """What was written, that is; the defaults of this library are not."""
    spec = spec_of(
        {
            "timeouts": {"total_s": 30, "idle_s": 5, "attempt_s": 14},
            "hedge": {"after_s": 1},
            "on_stream_break": "hold",
            "accept": "mypkg:is_good",
            "budget": {"usd_per_day": 20},
            "retries": {"max": 1},
            "balance": "least_loaded",
            "affinity": "thread",
            "zones": ["own"],
        },
        {
            "a": {
                **OWN,
                "zone": "own",
                "price": "free",
                "profile": {"open_weights": True},
                "breaker": {"window_s": 9},
                "cold_start": {"max_wait_s": 9},
                "finish_reasons": {"eot": "stop"},
            },
            "b": {**HOSTED, "price": {"input_per_million": 1, "per_gpu_hour": 2}},
        },
        runnables={"say": {"prompt": "Say {it}."}},
        serve={"port": 80},
    )
    assert list(noted(spec)) == [
        "chains.main.hedge",
        "chains.main.on_stream_break",
        "chains.main.accept",
        "chains.main.budget",
        "chains.main.balance",
        "chains.main.affinity",
        "chains.main.zones",
        "chains.main.retries",
        "chains.main.timeouts.total_s",
        "chains.main.timeouts.idle_s",
        "deployments.a.breaker.window_s",
        "deployments.a.cold_start",
        "deployments.a.finish_reasons",
        "deployments.a.zone",
        "deployments.a.profile.open_weights",
        "deployments.b.price.per_gpu_hour",
        "runnables.say",
        "serve.port",
    ]
    assert not noted(spec_of())


@contextmanager
def routed(server: FakeServer, chain: dict[str, Any], **chains: Any) -> Iterator[litellm.Router]:
    """LiteLLM's own Router over the configuration of a spec, as its proxy would build it from the file."""
    spec = server.spec(**chain)
    spec["chains"] |= chains
    config = yaml.safe_load(as_yaml(write_config(load_spec({**spec, "default_chain": "default"}))[0]))
    router = litellm.Router(model_list=config["model_list"], **config["router_settings"])
    try:
        yield router
    finally:
        router.discard()


async def said(router, model="default"):
    reply = await router.acompletion(model=model, messages=[{"role": "user", "content": "hi"}])
    return reply.choices[0].message.content


class TestLiteLLMsRouter:
    async def test_falls_back_along_the_tiers(self):
        """Through more tiers than the five it stops at by itself, and asks each once."""
        names = [f"d{number}" for number in range(8)]
        with FakeServer({**dict.fromkeys(names[:-1], Fail(500)), names[-1]: "the last"}) as server:
            with routed(server, {"tiers": names}) as router:
                assert await said(router) == "the last"
            assert [received.deployment for received in server.received()] == names

    async def test_asks_all_members_of_a_tier_first(self):
        """In any order; whoever failed is not asked again."""
        with FakeServer({"a": Fail(500), "b": Fail(429), "c": "third"}) as server:
            with routed(server, {"tiers": [["a", "b"], "c"]}) as router:
                assert await said(router) == "third"
            asked = [received.deployment for received in server.received()]
            assert (sorted(asked[:2]), asked[2:]) == (["a", "b"], ["c"])

    async def test_goes_where_a_prompt_that_is_too_long_goes(self):
        """To the route, to the tiers where there is none, nowhere where it is empty."""
        with FakeServer({"a": Fail("context_window"), "b": "next", "long": "long"}) as server:
            chain = {"tiers": ["a", "b"], "on_context_window": ["long"]}
            more = {"usual": {"tiers": ["a", "b"]}, "none": {"tiers": ["a", "b"], "on_context_window": []}}
            with routed(server, chain, **more) as router:
                assert [await said(router), await said(router, "usual")] == ["long", "next"]
                with pytest.raises(litellm.ContextWindowExceededError):
                    await said(router, "none")

    async def test_sends_a_server_without_a_key_no_key_of_anybody_s(self, monkeypatch):
        """Also where OPENAI_API_KEY is set."""
        monkeypatch.setenv("OPENAI_API_KEY", CANARY)
        with FakeServer({"a": "hello"}) as server:
            with routed(server, {}) as router:
                assert await said(router) == "hello"
            assert CANARY not in str(server.received()[0].headers)


@pytest.mark.parametrize("key", ["EMPTY", "none", "sk-no-key-required"])
def test_a_key_that_is_none_is_written_as_it_is(key):
    """As servers of one's own are asked with: no variable has to be set for it. So it is under `params` of nobody."""
    data, notes = dump_spec(spec_of(deployments={"a": {**OWN, "api_key": key}}))
    assert (data["deployments"]["a"]["api_key"], notes) == (key, ())
    config = written(spec_of(deployments={"a": {**OWN, "api_key": key}}))
    assert config["model_list"][0]["litellm_params"]["api_key"] == key


def test_the_first_of_the_keys_is_the_proxy_s():
    """In clear it becomes a variable; without one the proxy's own variable has to be set."""
    spec = spec_of(serve={"keys": ["${FIRST}", "sk-second"]})
    assert written(spec)["general_settings"] == {"master_key": "os.environ/FIRST"}
    assert "one master key" in noted(spec)["serve.keys"]
    assert load_spec(written(spec)).serve.keys == spec.serve.keys[:1]
    assert written(spec_of())["general_settings"] == {"master_key": "os.environ/LITELLM_MASTER_KEY"}


def test_litellm_has_a_word_for_every_price():
    """What it had none for would have to be told."""
    assert {name for name, _ in PRICES.values()} == set(Price.model_fields)
