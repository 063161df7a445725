"""Serving systems: their names, litellm's prefixes, and addresses with or without `/v1`."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm_fallback.spec.providers import BACKENDS, backend_called, misspelt_provider

HOSTS = st.from_regex(r"https?://[a-z][a-z0-9-]{0,10}(:[1-9][0-9]{1,3})?(/[a-z]{2,8}){0,2}", fullmatch=True)
SUFFIXES = st.sampled_from(["", "/", "//", "/v1", "/v1/", "/v1/chat/completions", "/v1/chat/completions/"])


@given(st.sampled_from(sorted(BACKENDS)), HOSTS, SUFFIXES)
def test_an_address_means_the_same_with_and_without_v1(name, host, suffix):
    """Whatever a user copies from a server's page, requests go to its `/v1`."""
    assert BACKENDS[name].base_url(host + suffix) == f"{host}/v1"


@given(st.sampled_from(sorted(BACKENDS)), HOSTS)
def test_completing_an_address_twice_changes_nothing(name, host):
    """`base_url` of a base url is that base url."""
    backend = BACKENDS[name]
    assert backend.base_url(backend.base_url(host)) == backend.base_url(host)


@pytest.mark.parametrize(
    "address",
    [
        "https://generativelanguage.googleapis.com/v1beta/openai",
        "https://api.example.com/api/paas/v4",
        "https://host/openai/v1",
    ],
)
def test_an_address_with_a_version_of_its_own_is_left_alone(address):
    """Not every OpenAI-compatible server ends its base in /v1."""
    assert BACKENDS["openai-compatible"].base_url(address) == address


def test_a_host_whose_name_looks_like_a_version_still_gets_its_v1():
    """Only the path says which version is spoken."""
    assert BACKENDS["vllm"].base_url("http://v1.gpu.local:8000") == "http://v1.gpu.local:8000/v1"


@pytest.mark.parametrize(
    ("name", "model"),
    [
        ("vllm", "hosted_vllm/meta/llama"),
        ("tensorrt-llm", "hosted_vllm/meta/llama"),
        ("openllm", "openai/meta/llama"),
        ("ray-serve", "openai/meta/llama"),
        ("litellm-proxy", "litellm_proxy/meta/llama"),
        ("openai-compatible", "openai/meta/llama"),
    ],
)
def test_each_backend_has_its_prefix_in_litellm(name, model):
    """The served name, slashes and all, follows litellm's prefix."""
    assert BACKENDS[name].model("meta/llama") == model


@pytest.mark.parametrize(
    ("word", "name"),
    [
        ("hosted_vllm", "vllm"),
        ("trtllm", "tensorrt-llm"),
        ("TensorRT_LLM", "tensorrt-llm"),
        ("ray_serve", "ray-serve"),
        ("bentoml", "openllm"),
        ("litellm_proxy", "litellm-proxy"),
        ("openai_like", "openai-compatible"),
        ("vllm", "vllm"),
        ("fortran", None),
    ],
)
def test_words_from_elsewhere_mean_a_backend(word, name):
    """What other tools call a serving system leads to its row."""
    assert backend_called(word) == name


def test_no_word_means_two_backends():
    """Names and aliases are each other's only once."""
    words = [word for backend in BACKENDS.values() for word in (backend.name, *backend.aliases)]
    assert len(words) == len(set(words))


@pytest.mark.parametrize(
    ("name", "health", "metrics"),
    [
        ("vllm", "/health", "/metrics"),
        ("tensorrt-llm", "/health", "/prometheus/metrics"),
        ("openllm", "/readyz", "/metrics"),
        ("ray-serve", "/-/healthz", None),
        ("litellm-proxy", "/health/readiness", "/metrics"),
        ("openai-compatible", "/v1/models", None),
    ],
)
def test_each_backend_knows_where_its_server_tells_of_itself(name, health, metrics):
    """Up or not, what it serves, how busy it is: paths on the server's root."""
    backend = BACKENDS[name]
    assert (backend.health, backend.models, backend.metrics) == (health, "/v1/models", metrics)


def test_a_provider_that_is_one_is_misspelt_from_none():
    """However like another it is."""
    assert misspelt_provider("groq") == ""
    assert misspelt_provider("together") == "did you mean 'together_ai'?"
