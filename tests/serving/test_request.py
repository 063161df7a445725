"""Whatever a body holds: a request that is read can be sent on, and one that cannot is refused, never a failure."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm_fallback.chat_model.conversion import to_call
from llm_fallback.engine.budget import Spender
from llm_fallback.serving.errors import RefusedRequest
from llm_fallback.serving.request import read_chat_request
from llm_fallback.testing import FakeServer, fake_chat_model
from tests.serving.running import in_process

PLAN = fake_chat_model({"only": "fine"}).runtime.plan
PATH = "/v1/chat/completions"

scalars = st.none() | st.booleans() | st.integers(-3, 3) | st.floats(-2, 2, width=16) | st.text(max_size=5)
anything = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["type", "text", "function", "name", "arguments", "id", "url"]), inner, max_size=3
        )
    ),
    max_leaves=8,
)
parts = st.lists(
    st.fixed_dictionaries(
        {"type": st.sampled_from(["text", "image_url", "input_audio", "file", "x"])},
        optional={"text": anything, "image_url": anything, "input_audio": anything, "cache_control": anything},
    )
    | st.text(max_size=3),
    max_size=2,
)
calls = st.lists(
    st.fixed_dictionaries(
        {},
        optional={
            "id": st.text(max_size=3) | anything,
            "type": st.just("function") | anything,
            "index": anything,
            "function": st.fixed_dictionaries({"name": st.text(max_size=3), "arguments": st.text(max_size=5)})
            | anything,
        },
    ),
    max_size=2,
)
messages = st.lists(
    st.fixed_dictionaries(
        {"role": st.sampled_from(["system", "user", "assistant", "tool", "developer", "function", "", "x"])},
        optional={
            "content": parts | st.text(max_size=5) | anything,
            "tool_calls": calls | anything,
            "tool_call_id": st.just("c1") | anything,
            "name": anything,
            "thinking_blocks": anything,
            "left_out": anything,
            "origin": anything,
            "reasoning_content": anything,
            "provider_specific_fields": anything,
        },
    ),
    min_size=1,
    max_size=3,
)
bodies = st.fixed_dictionaries(
    {"messages": messages},
    optional=dict.fromkeys(
        (
            *("model", "stream", "stream_options", "tools", "tool_choice", "response_format", "n", "stop", "metadata"),
            *("temperature", "max_tokens", "functions", "logit_bias", "user", "thinking", "x_unknown"),
        ),
        anything,
    ),
)


@given(bodies)
def test_every_body_is_read_as_a_call_or_refused_with_400(body: dict[str, Any]) -> None:
    """By the engine's own measure: it can count it and knows what it needs."""
    request, refused = None, None
    try:
        request = read_chat_request(json.dumps(body).encode(), PLAN)
    except RefusedRequest as error:
        refused = error.response
    if request is None:
        assert refused is not None
        assert refused.status in (400, 404)
    else:
        call = to_call(request.words, PLAN.chain(request.chain), None, Spender())
        assert call.streamed == request.streamed


@pytest.fixture(scope="module")
def spec() -> Iterator[dict[str, Any]]:
    """Of a real deployment: litellm and what knows its translations get each body."""
    with FakeServer({"only": "fine"}) as server:
        yield server.spec(retries={"max": 0}, deployments={"only": {"breaker": "off"}})


@given(bodies)
async def test_no_body_makes_the_server_fail(spec: dict[str, Any], body: dict[str, Any]) -> None:
    """Over a real deployment, too."""
    with in_process(spec) as client:
        reply = await client.post(PATH, json=body)
    assert reply.status_code in (200, 400, 404, 502), reply.text
