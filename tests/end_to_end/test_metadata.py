"""Which keys the facts of a reply have: those that are declared as always there always, the others where they tell."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NotRequired, get_args, get_origin, get_type_hints

import pytest
from langchain_core.caches import InMemoryCache
from pydantic import TypeAdapter

from llm_fallback import ChainExhausted, build_chat_model
from llm_fallback.events import AttemptMetadata, CallMetadata, SkipMetadata, StitchMetadata
from llm_fallback.testing import Cut, Fail, FakeServer, Reply, fake_chat_model
from tests.asking import TWO_MODES, ask
from tests.litellm_adapter.test_direct_and_relayed_alike import heard

WORDS = Reply("one two three four", chunks=["one ", "two ", "three ", "four"])
PRICED = {"price": {"input_per_million": 1000, "output_per_million": 1000}}
CALLS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "answered": ({"a": "hello"}, {}),
    "answered by a backup": ({"a": Fail(503), "b": "hello"}, {}),
    "answered after a stream broke off": ({"a": Cut(after_chunks=2, reply=WORDS), "b": "five"}, {}),
    "answered past a limit": ({"a": "hello", "b": "hello"}, {"limits": {"rpm": 1}}),
    "not answered": ({"a": Fail(503), "b": Fail("auth")}, {}),
}
"""Scripts, and what the first deployment's entry has besides."""


def check_keys(plain: Mapping[str, Any], declared: Any) -> None:
    """Hold that a mapping has the declared keys and values of the declared types, and nothing besides."""
    hints = get_type_hints(declared, include_extras=True)
    optional = {name for name, hint in hints.items() if get_origin(hint) is NotRequired}
    assert hints.keys() - optional <= plain.keys() <= hints.keys()
    for name, value in plain.items():
        hint = get_args(hints[name])[0] if name in optional else hints[name]
        if name not in ("attempts", "skipped", "stitches"):
            TypeAdapter(hint).validate_python(value, strict=True)


def check(facts: Mapping[str, Any]) -> None:
    check_keys(facts, CallMetadata)
    for attempt in facts["attempts"]:
        check_keys(attempt, AttemptMetadata)
    for skip in facts["skipped"]:
        check_keys(skip, SkipMetadata)
    for stitch in facts.get("stitches", ()):
        check_keys(stitch, StitchMetadata)


async def check_calls(model: Any, mode: str) -> None:
    """Two calls, as the second passes over whom the first used up."""
    for _ in range(2):
        try:
            check((await ask(model, mode)).response_metadata["llm_fallback"])
        except ChainExhausted as error:
            for attempt in error.attempts:
                check_keys(attempt.as_metadata(), AttemptMetadata)


@pytest.mark.parametrize("mode", TWO_MODES)
@pytest.mark.parametrize("way", ["direct", "relayed"])
@pytest.mark.parametrize("call", CALLS)
async def test_facts_have_the_declared_keys_over_a_server(call, way, mode):
    """Whoever reads its replies, and however the call ended."""
    scripts, entry = CALLS[call]
    with FakeServer(scripts) as server, heard(way):
        spec = server.spec(deployments={"a": entry | PRICED}, on_stream_break="continue", retries={"max": 0})
        with build_chat_model(spec) as model:
            await check_calls(model, mode)


@pytest.mark.parametrize("mode", TWO_MODES)
@pytest.mark.parametrize("call", CALLS)
async def test_facts_have_the_declared_keys_in_a_fake(call, mode):
    """As over a server."""
    scripts, entry = CALLS[call]
    spec = {
        "deployments": {name: {"backend": "vllm", "model": name, "api_base": "http://x"} for name in scripts},
        "chains": {"c": {"tiers": list(scripts), "on_stream_break": "continue"}},
    }
    spec["deployments"]["a"] |= entry | PRICED
    await check_calls(fake_chat_model(scripts, spec=spec), mode)


@pytest.mark.parametrize("mode", ["invoke", "ainvoke"])
async def test_a_reply_from_the_cache_has_the_declared_keys(mode):
    """No call was made, so it took no time of which anything is known."""
    model = fake_chat_model({"a": "hello"}, cache=InMemoryCache())
    await ask(model, mode)
    facts = (await ask(model, mode)).response_metadata["llm_fallback"]
    check(facts)
    assert (facts["cached"], facts["latency_s"], facts["attempts"]) == (True, None, [])


async def test_an_attempt_of_which_nothing_is_known_has_every_key():
    """A server that nobody reaches tells neither a status nor an id, and nothing was dropped or estimated."""
    own = {"backend": "vllm", "model": "m", "api_base": "http://127.0.0.1:9"}
    with build_chat_model({"deployments": {"a": own}, "chains": {"c": {"tiers": ["a"]}}}, max_retries=0) as model:
        with pytest.raises(ChainExhausted) as caught:
            await model.ainvoke("hi")
    [attempt] = caught.value.attempts
    plain = attempt.as_metadata()
    check_keys(plain, AttemptMetadata)
    assert (plain["status"], plain["request_id"]) == (None, None)
    assert not {"dropped_params", "cost_estimated"} & plain.keys()
