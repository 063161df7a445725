"""Findings about a spec that is legal but unwise; each is something its author would change."""

import json

import pytest

from llm_fallback.errors import SpecError
from llm_fallback.plan.checks import check
from llm_fallback.plan.resolve import resolve_spec
from llm_fallback.spec import load_spec

KEYS = {"HOST_AND_PORT": "gpu:8000", "OPENAI_API_KEY": "k", "ANTHROPIC_API_KEY": "k"}
SOUND = {
    "deployments": {"a": {"model": "openai/a"}, "b": {"model": "anthropic/b"}},
    "chains": {"main": {"tiers": ["a", "b"]}},
}


def with_a(**fields):
    return {**SOUND, "deployments": {**SOUND["deployments"], "a": {"model": "openai/a", **fields}}}


def with_main(**fields):
    return {**SOUND, "chains": {"main": {"tiers": ["a", "b"], **fields}}}


def findings(*sources, environ=KEYS, **options):
    return [str(finding) for finding in check(load_spec(*sources), environ=environ, **options)]


def test_whatever_takes_the_place_of_a_spec_is_checked(tmp_path):
    """A path, a mapping; what cannot be loaded raises as it does elsewhere."""
    path = tmp_path / "spec.json"
    path.write_text(json.dumps(SOUND), encoding="utf-8")
    assert check(SOUND, environ=KEYS) == check(path, environ=KEYS) == check(str(path), environ=KEYS) == []
    with pytest.raises(SpecError):
        check({"deploymints": {}})


def test_a_zone_of_a_chain_that_no_deployment_is_in_is_told_with_the_nearest():
    """A word that is misspelt keeps a deployment out in silence."""
    spec = {**with_main(zones=["own", "hause"]), "deployments": {**SOUND["deployments"]}}
    spec["deployments"] = {"a": {"model": "openai/a", "zone": "own"}, "b": {"model": "anthropic/b", "zone": "house"}}
    assert findings(spec) == [
        "warning: chains.main.zones: no deployment is in zone 'hause'; did you mean 'house'?",
    ]


def test_words_by_which_a_reply_counts_as_whole_are_told():
    """A reply that was cut would pass for one if the word meant something else."""
    assert findings(with_a(finish_reasons={"eot": "stop"})) == [
        "note: deployments.a.finish_reasons.eot: a reply that ends by 'eot' counts as whole (stop) because the spec "
        "says so"
    ]
    with pytest.raises(SpecError, match=r"deployments\.a\.finish_reasons\.eot"):
        load_spec(with_a(finish_reasons={"eot": "ended"}))


def test_a_sound_spec_has_no_findings():
    """Two deployments, two providers, keys in the environment."""
    assert findings(SOUND) == []


@pytest.mark.parametrize(
    ("spec", "told"),
    [
        ({"deployments": SOUND["deployments"]}, "error: chains: there is no chain, so nothing can be asked"),
        (
            with_main(tiers=["a"], on_context_window=["a"]),
            "warning: deployments.b: no chain asks it",
        ),
        (
            with_main(tiers=["a"]),
            "warning: chains.main.tiers: 'a' is alone: there is nothing to fall back to",
        ),
        (
            with_a(weight=0),
            "warning: chains.main.tiers[0]: every deployment has weight 0: the tier is passed over",
        ),
        (
            {"deployments": {"a": {"model": "openai/a", "weight": 0}}, "chains": {"main": {"tiers": ["a"]}}},
            "error: chains.main.tiers: every deployment has weight 0, so none is ever asked",
        ),
        (
            with_main(timeouts={"total_s": 5, "attempt_s": 20}),
            "warning: chains.main.timeouts: attempt_s 20 of 'a' is beyond total_s 5",
        ),
        (
            with_main(budget={"usd_per_call": 1, "file": "spent"}),
            "warning: chains.main.budget.file: keeps what the day has cost, and there is no usd_per_day",
        ),
        (
            with_main(budget={"per": "tenant"}),
            "warning: chains.main.budget: limits nothing: it has no usd_per_call, usd_per_run or usd_per_day",
        ),
        (
            with_main(budget={"usd_per_call": 0.5, "usd_per_run": 5, "usd_per_day": 2}),
            "warning: chains.main.budget.usd_per_run: $5 a run is never reached: $2 a day ends it before",
        ),
        (
            with_main(timeouts={"attempt_s": 2, "first_token_s": 3}),
            "warning: chains.main.timeouts: first_token_s 3 of 'a' is beyond its attempt_s",
        ),
        (
            with_main(timeouts={"total_s": 20, "attempt_s": 20}),
            "warning: chains.main.timeouts: if deployments hang, only 1 of 2 can be asked: "
            "their attempt_s (20) use up total_s 20",
        ),
        (
            with_main(timeouts={"total_s": 20}),
            "warning: chains.main.timeouts: if deployments hang, only 1 of 2 can be asked: "
            "their attempt_s (120) use up total_s 20",
        ),
        (
            with_main(retries={"wait_initial_s": 9}),
            "warning: chains.main.retries: wait_initial_s 9 is beyond wait_max_s 8",
        ),
        (
            {
                **with_a(context_window=100),
                "chains": {"main": {"tiers": ["a"], "on_context_window": ["small"]}},
                "deployments": {
                    "a": {"model": "openai/a", "context_window": 100},
                    "small": {"model": "openai/s", "context_window": 50},
                },
            },
            "warning: chains.main.on_context_window[0]: 'small' takes 50 tokens, no more than the tiers' 100",
        ),
        (
            with_a(profile={"image_inputs": False, "structured_output": False}),
            "warning: chains.main.tiers[0]: 'a' takes no JSON schemas or images, so calls with JSON schemas or images "
            "pass it over; put a deployment that does in its place, or ask it by a chain of its own",
        ),
        (
            with_main(accept="nowhere.at_all:good"),
            "warning: chains.main.accept: no module is called 'nowhere.at_all' here; "
            "it has to be importable where the model is built",
        ),
        (
            {**SOUND, "runnables": {"r": {"prompt": "{x}", "output": "json.nowhere:Form"}}},
            "warning: runnables.r.output: no module is called 'json.nowhere' here; "
            "it has to be importable where the model is built",
        ),
        (
            with_a(api_key="$OPENAI_API_KEY"),
            "warning: deployments.a.api_key: $OPENAI_API_KEY is taken as it stands; write ${OPENAI_API_KEY}",
        ),
        (
            with_a(api_base="https://me:secret@host/v1"),
            "warning: deployments.a.api_base: a password or key in an address is shown in logs; write it as api_key",
        ),
        (
            with_a(price="free"),
            "warning: deployments.a.price: openai bills its calls; as `free` budgets do not see them",
        ),
        (
            with_a(model="antropic/claude"),
            "error: deployments.a.model: no provider is known as 'antropic'; did you mean 'anthropic'?",
        ),
        (
            with_a(model="google_genai:gemini"),
            "error: deployments.a.model: no provider is known as 'google_genai'; did you mean 'gemini'?",
        ),
        (
            with_a(api_base="${HOST_AND_PORT}"),
            "warning: deployments.a.api_base: '${HOST_AND_PORT}' comes to no address that begins with http:// or "
            "https://; set it as in 'http://host:8000'",
        ),
        (
            with_a(model="gorq/llama", api_base="http://gpu"),
            "error: deployments.a.model: no provider is known as 'gorq'; did you mean 'groq'? "
            "For a server of your own name its backend",
        ),
        (
            with_a(model="zzyzx/llama"),
            "warning: deployments.a.model: no provider is known as 'zzyzx'; "
            "write litellm's name for it, as in 'openai/gpt-4.1'",
        ),
        (
            with_a(model="llama", backend="vllm", api_base="http://gpu"),
            "note: deployments.a: what calls of a cost is not known; write price, or price: free",
        ),
        (
            with_a(model="meta-llama/Llama", api_base="http://gpu"),
            "error: deployments.a.model: no provider is known as 'meta-llama'; did you mean 'meta_llama'? "
            "For a server of your own name its backend",
        ),
    ],
)
def test_what_is_found(spec, told):
    """Each finding says where and what to change."""
    assert told in findings(spec)


@pytest.mark.parametrize(
    "spec",
    [
        with_a(model="openrouter/x:free", price="free", api_key="${OPENAI_API_KEY}"),
        with_a(model="ollama/llama", price="free"),
        with_a(model="llama", backend="vllm", api_base="http://gpu", price="free"),
        with_a(model="${MODEL:-openai/x}", price="free"),
        with_a(api_base="http://gpu", api_key="EMPTY"),
        with_a(profile={"image_inputs": True, "reasoning_output": False}),
        with_main(accept="builtins:bool"),
        with_main(accept="__main__:is_good"),
        with_main(accept="email.mime.text:MIMEText"),
        {**SOUND, "runnables": {"r": {"prompt": "{x}", "output": "json"}}},
    ],
)
def test_what_is_sound_is_left_in_peace(spec):
    """Free tiers, servers of one's own, models from variables, what can be imported: nothing to say."""
    assert findings(spec) == []


def test_what_all_of_a_chain_lack_is_not_lost_by_falling_back():
    """The chain never had it. A deployment out of rotation counts for nothing."""
    blind = {"profile": {"image_inputs": False}}
    both = {"a": {"model": "openai/a", **blind}, "b": {"model": "anthropic/b", **blind}}
    assert findings({**SOUND, "deployments": both}) == []
    both["b"]["profile"] = {}
    both["a"]["weight"] = 0
    assert not [told for told in findings({**SOUND, "deployments": both}) if "images" in told]


@pytest.mark.parametrize(
    ("tiers", "path"),
    [
        ({"tiers": ["b", "a"]}, "chains.main.tiers[1]"),
        ({"tiers": [["b", "a"]]}, "chains.main.tiers[0][1]"),
        ({"tiers": ["b"], "on_content_policy": ["a"]}, "chains.main.on_content_policy[0]"),
        ({"tiers": ["b", "a"], "on_context_window": [["a"]]}, "chains.main.tiers[1]"),
    ],
)
def test_what_falling_back_would_lose_is_told_where_it_is_lost(tiers, path):
    """Once for each deployment, where the chain names it first."""
    spec = {**with_a(profile={"tool_calling": False}), "chains": {"main": tiers}}
    (told,) = [told for told in findings(spec) if "takes no tools" in told]
    assert told.startswith(f"warning: {path}: 'a' takes no tools, so calls with tools pass it over;")


def test_what_the_list_says_a_hosted_model_cannot_see_is_lost_by_falling_back():
    """Unless the spec knows better, or all of the chain are blind. On a server of one's own no list has the word."""
    spec = with_a(model="openai/o3-mini")
    (told,) = [told for told in findings(spec) if "takes no" in told]
    assert told.startswith("warning: chains.main.tiers[0]: 'a' takes no images, so calls with images pass it over;")
    assert not findings(with_a(model="openai/o3-mini", profile={"image_inputs": True}))
    assert not findings(with_a(model="o3-mini", backend="vllm", api_base="http://gpu", price="free"))
    blind = {
        "a": {"model": "openai/o3-mini"},
        "b": {"model": "deepseek/deepseek-chat", "profile": {"image_inputs": False}},
    }
    assert not [told for told in findings({**spec, "deployments": blind}) if "takes no" in told]


def test_looking_for_a_module_runs_nothing_of_it(tmp_path, monkeypatch):
    """Neither the module nor the packages around it."""
    package = tmp_path / "house"
    package.mkdir()
    for name in ("__init__", "rules"):
        (package / f"{name}.py").write_text("raise SystemExit('somebody imported this')\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert findings(with_main(accept="house.rules:good")) == []
    assert findings(with_main(accept="house.rulez:good"))


def test_a_variable_that_is_not_set_is_a_warning_or_with_env_an_error():
    """A laptop need not have production's keys; production must."""
    spec = with_a(api_key="${KEY_OF_A:?ask the platform team}", params={"user": "${TEAM:-search}"})
    told = "deployments.a.api_key: the variable KEY_OF_A is not set: ask the platform team"
    assert findings(spec) == [f"warning: {told}"]
    assert findings(spec, env=True) == [f"error: {told}"]
    assert findings(spec, environ={**KEYS, "KEY_OF_A": "k"}, env=True) == []


def test_a_provider_without_any_key_is_found_too():
    """Where the spec says nothing, litellm looks for the provider's own variable; so do we."""
    assert findings(SOUND, environ={"ANTHROPIC_AUTH_TOKEN": "k"}) == [
        "warning: deployments.a: has no api_key, and OPENAI_API_KEY is not set"
    ]


def test_azure_without_a_key_is_found_at_its_own_address_too():
    """There no variable is read, so that no key goes to a stranger."""
    azure = {"model": "azure/prod", "params": {"api_version": "2025-04-01"}}
    told = "warning: deployments.a: has no api_key, and"
    addressed = {**KEYS, "AZURE_API_BASE": "https://house.openai.azure.com"}
    assert findings(with_a(**azure), environ=addressed) == [f"{told} AZURE_API_KEY or AZURE_OPENAI_API_KEY is not set"]
    assert findings(with_a(**azure), environ={**addressed, "AZURE_API_KEY": "k"}) == []
    at_home = {**azure, "api_base": "https://house.openai.azure.com"}
    assert findings(with_a(**at_home), environ={**KEYS, "AZURE_API_KEY": "k"}) == [
        f"{told} with an api_base of its own no variable is read; write api_key: ${{AZURE_API_KEY}}"
    ]
    assert findings(with_a(**at_home, api_key="k")) == []
    by_token = {**at_home, "params": {**azure["params"], "azure_ad_token": "${KEY}"}}
    assert findings(with_a(**by_token), environ={**KEYS, "KEY": "k"}) == []


def test_azure_without_address_or_version_is_found():
    """Nothing else could tell litellm where to send the request, and by which version of the API."""
    nothing = findings(with_a(model="azure/prod", api_key="k"))
    assert [told.partition(": has ")[2].partition(" is not set")[0] for told in nothing] == [
        "no api_base, and AZURE_API_BASE",
        "no params.api_version, and AZURE_API_VERSION",
    ]
    variables = {**KEYS, "AZURE_API_BASE": "https://house.openai.azure.com", "AZURE_API_VERSION": "2025-04-01"}
    assert findings(with_a(model="azure/prod", api_key="k"), environ=variables) == []


@pytest.mark.parametrize(
    ("address", "told"),
    [
        ("http://127.0.0.1:99999", "'99999' is no port; one is a number from 1 to 65535"),
        ("http://own:0/v1", "'0' is no port; one is a number from 1 to 65535"),
        ("http://own:vllm", "'vllm' is no port; one is a number from 1 to 65535"),
        ("http://", "names no host; write it as in 'http://host:8000'"),
        ("http://own host:8000", "names no host; write it as in 'http://host:8000'"),
        (
            "http://own:8000/v1/chat/completions",
            "ends in /chat/completions, which is added by itself; write the address without it",
        ),
        ("http://own:8000/v1/models/", "ends in /models, which is added by itself; write the address without it"),
    ],
)
def test_an_address_that_cannot_be_a_server_s_is_found(address, told):
    """Before the first request fails by it; at a backend and at a provider alike."""
    for deployment in ({"backend": "vllm", "model": "m"}, {"model": "openai/m", "api_key": "k"}):
        entry = {**deployment, "api_base": address, "price": "free"}
        spec = {**SOUND, "deployments": {**SOUND["deployments"], "a": entry}}
        assert f"warning: deployments.a.api_base: {told}" in findings(spec)


@pytest.mark.parametrize("word", ["extra_headers", "headers"])
@pytest.mark.parametrize("address", ["http://user:pass@own:8000", "http://${LOGIN}@own:8000"])
def test_a_login_in_the_address_beside_one_in_a_header_is_a_mistake(word, address):
    """A request carries one; both fields are named, where the spec is checked and where it is built."""
    spec = with_a(model="openai/gpt-4.1", api_base=address, params={word: {"authorization": "Basic eDp5"}})
    environ = {**KEYS, "LOGIN": "user:pass"}
    told = (
        "deployments.a.api_base: has a login in front of its host, as has "
        f"params.{word}.authorization; leave out one of the two"
    )
    assert f"error: {told}" in findings(spec, environ=environ)
    with pytest.raises(SpecError) as caught:
        resolve_spec(load_spec(spec), environ)
    assert told in str(caught.value)
    assert "pass" not in str(caught.value)


@pytest.mark.parametrize(
    "fields",
    [
        {"api_base": "http://user:pass@own:8000", "params": {"extra_headers": {"X-Team": "search"}}},
        {"api_base": "http://user:pass@own:8000", "params": {"extra_headers": {"Authorization": None}}},
        {"api_base": "http://own:8000/@user", "params": {"extra_headers": {"Authorization": "Basic eDp5"}}},
    ],
)
def test_one_login_is_none_too_many(fields):
    """Wherever it is."""
    resolve_spec(load_spec(with_a(model="openai/gpt-4.1", **fields)), KEYS)


@pytest.mark.parametrize("address", ["http://own:8000", "http://[::1]:8000/v1", "https://own/models/v1", "${BASE}"])
def test_an_address_that_may_be_a_server_s_is_let_alone(address):
    """Also one that a variable will tell."""
    entry = {"backend": "vllm", "model": "m", "api_base": address}
    told = findings(
        {**SOUND, "deployments": {**SOUND["deployments"], "a": entry}}, environ={**KEYS, "BASE": "http://h"}
    )
    assert not [each for each in told if "api_base" in each]


def test_parameters_that_are_misspelt_or_of_no_use_are_found():
    """Near words only: a server may know others; and no value that a variable will tell."""
    params = {"temprature": 0, "min_tokens": 3, "top_p": "most", "tool_choice": False, "seed": "${SEED:-7}", "n": 1}
    assert findings(with_a(params=params)) == [
        "warning: deployments.a.params.temprature: no parameter is known as 'temprature'; did you mean 'temperature'? "
        "It is sent as it is",
        "warning: deployments.a.params.top_p: must be a number, got 'most'",
        "warning: deployments.a.params.tool_choice: must be a string or a mapping, got false",
    ]


@pytest.mark.parametrize(
    ("budget", "params", "is_told"),
    [
        ({"usd_per_call": 0.01}, {}, True),
        ({"usd_per_call": 0.01}, {"max_tokens": 5}, False),
        ({"usd_per_call": 1}, {}, False),
        ({"usd_per_day": 0.01}, {}, True),
    ],
)
def test_a_budget_that_no_attempt_fits_into_is_found(budget, params, is_told):
    """256 tokens at $100 a million are $0.0256; by declared prices only, for no others are known here."""
    priced = {"price": {"input_per_million": 1, "output_per_million": 100}, "params": params}
    deployments = {name: {**entry, **priced} for name, entry in SOUND["deployments"].items()}
    told = findings({**with_main(budget=budget), "deployments": deployments})
    assert [each for each in told if "cheapest attempt" in each] == told
    assert bool(told) is is_told


def test_a_login_of_its_own_is_as_good_as_a_key():
    """Under whichever header the provider looks for it."""
    login = {"params": {"extra_headers": {"Authorization": "Bearer ${KEY}"}}}
    assert findings(with_a(model="groq/llama-3.3-70b-versatile", **login), environ={**KEYS, "KEY": "k"}) == []


@pytest.mark.parametrize("model", ["bedrock/anthropic.claude-3-5-sonnet-20240620-v1:0", "vertex_ai/gemini-2.5-pro"])
def test_a_cloud_s_credentials_that_are_not_to_be_seen_are_a_note(model, tmp_path):
    """The machine may have an identity, which only a request would tell."""
    told = "note: deployments.a: no credentials are in its params, the environment or the usual files; "
    assert findings(with_a(model=model), environ={**KEYS, "HOME": str(tmp_path)}) == [
        f"{told}it answers only where the machine has an identity"
    ]
    identity = {"AWS_ROLE_ARN": "arn", "GOOGLE_APPLICATION_CREDENTIALS": "/etc/key.json"}
    assert findings(with_a(model=model), environ={**KEYS, **identity}) == []


def test_the_environment_of_the_process_is_the_default(monkeypatch):
    """`check(spec)` looks at what the model would be built with."""
    monkeypatch.setenv("KEY_OF_A", "k")
    spec = load_spec(with_a(api_key="${KEY_OF_A}"))
    assert not [finding for finding in check(spec) if "KEY_OF_A" in finding.message]


def test_a_secret_in_a_file_is_found_and_not_shown(tmp_path):
    """In clear in a file it will be committed one day; in a Python mapping it came from somewhere."""
    spec = with_a(api_key="sk-canary-0123", params={"extra_headers": {"X-Api-Key": "another-canary"}})
    path = tmp_path / "llm-fallback.yaml"
    path.write_text(
        "deployments:\n  b: {model: anthropic/b}\n  a:\n    model: openai/a\n    api_key: sk-canary-0123\n"
        "    params:\n      extra_headers: {X-Api-Key: another-canary, X-Team: search}\n"
        "chains: {main: {tiers: [a, b]}}\n"
    )
    found = check(load_spec(path), environ=KEYS)
    assert [(finding.path, finding.line) for finding in found] == [
        ("deployments.a.api_key", 5),
        ("deployments.a.params.extra_headers.X-Api-Key", 7),
    ]
    assert "canary" not in str(found)
    assert findings(spec) == []


def test_a_finding_says_its_file_and_line(tmp_path):
    """Like a mistake does."""
    path = tmp_path / "a.yaml"
    path.write_text("deployments:\n  a: {model: openai/a}\nchains:\n  main:\n    tiers: [a]\n")
    assert findings(path) == [f"warning: {path}:5 chains.main.tiers: 'a' is alone: there is nothing to fall back to"]
