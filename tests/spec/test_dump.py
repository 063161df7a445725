"""A spec as data for a file: what it said, and no secret."""

from __future__ import annotations

import pytest
import yaml

from llm_fallback import load_spec
from llm_fallback.spec import Spec
from llm_fallback.spec.dump import as_yaml, dump_spec

CANARY = "sk-canary-0123456789abcdef"


def spec_of(**own):
    return load_spec({"deployments": {"gpu-a": {"model": "openai/x", **own}}, "chains": {"c": {"tiers": ["gpu-a"]}}})


def is_good(reply):
    return bool(reply)


def test_what_was_written_is_written_and_nothing_else():
    """No defaults; the parts in the order one reads them in, numbers as one writes them."""
    text = """\
defaults:
  timeouts: {total_s: 30}
deployments:
  a:
    backend: vllm
    model: Qwen/Qwen3-32B
    api_key: ${KEY}
    api_base: http://gpu-a:8000
    breaker: 'off'
    price: {input_per_million: 0.2, output_per_million: 2}
  b: {model: anthropic/claude-sonnet-4-5}
chains:
  assistant:
    tiers:
    - [a, b]
    timeouts: {attempt_s: 12.5}
"""
    assert as_yaml(dump_spec(load_spec(yaml.safe_load(text)))[0]) == text


@pytest.mark.parametrize("text", ["${KEY}", "Bearer ${KEY}", "os.environ/KEY", "${KEY:?set it}"])
def test_a_reference_stays(text):
    """It says where a secret is, not what."""
    data, notes = dump_spec(spec_of(api_key=text))
    assert (data["deployments"]["gpu-a"]["api_key"], notes) == (text, ())


def test_a_variable_with_a_default_stays_where_no_secret_is_meant():
    """`${REGION:-eu}` is no key, though a spec keeps it veiled."""
    data, notes = dump_spec(spec_of(params={"region": "${REGION:-eu}"}))
    assert (data["deployments"]["gpu-a"]["params"], notes) == ({"region": "${REGION:-eu}"}, ())


@pytest.mark.parametrize(
    ("own", "name"),
    [
        ({"api_key": CANARY}, "GPU_A_API_KEY"),
        ({"api_key": f"{CANARY}-${{X}}"}, "GPU_A_API_KEY"),
        ({"api_key": f"${{X:-{CANARY}}}"}, "GPU_A_API_KEY"),
        ({"api_key": lambda: CANARY}, "GPU_A_API_KEY"),
        ({"api_base": f"http://me:{CANARY}@host/v1"}, "GPU_A_API_BASE"),
        ({"params": {"extra_headers": {"X-Auth-Token": CANARY}}}, "GPU_A_EXTRA_HEADERS_X_AUTH_TOKEN"),
        ({"params": {"vertex_credentials": {"a": [CANARY]}}}, "GPU_A_VERTEX_CREDENTIALS_A_0"),
    ],
)
def test_a_secret_becomes_a_variable_which_is_told(own, name):
    """With the place it stood at; the data is a spec again."""
    data, (note,) = dump_spec(spec_of(**own))
    text = as_yaml(data)
    assert f"${{{name}}}" in text
    assert CANARY not in text + repr(note)
    assert name in note.text
    assert [reference.name for _, reference in Spec.model_validate(data).references()] == [name]


def test_a_new_variable_never_has_the_name_of_one_there_is():
    """Its value would be another."""
    deployments = {"a": {"model": "openai/x", "api_key": "${B_API_KEY}"}, "b": {"model": "openai/y", "api_key": CANARY}}
    spec = load_spec({"deployments": deployments, "chains": {"c": {"tiers": ["a", "b"]}}})
    data, _ = dump_spec(spec)
    assert data["deployments"]["b"]["api_key"] == "${B_API_KEY_2}"


@pytest.mark.parametrize(("predicate", "kept"), [(is_good, True), (lambda reply: True, False)])
def test_a_function_is_written_by_its_name_if_it_has_one(predicate, kept):
    """A lambda is left out, and that is told."""
    spec = spec_of().with_chain_settings("c", accept=predicate)
    data, notes = dump_spec(spec)
    assert data["chains"]["c"].get("accept") == ("tests.spec.test_dump:is_good" if kept else None)
    assert [note.path for note in notes] == ([] if kept else ["chains.c.accept"])
