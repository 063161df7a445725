"""What the fakes refuse, as litellm does whichever server a request is for."""

from __future__ import annotations

from typing import Any

import litellm
import pytest
from litellm.types.llms.openai import ValidUserMessageContentTypes
from pydantic import BaseModel

from llm_fallback.testing.translation import _PARTS, as_sent, refusal


class Form(BaseModel):
    """A form."""

    number: int


def request(content: Any = "hi", **words: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": content}], **words}


REFUSED = {
    "part": request([{"type": "text", "text": "a"}, {"type": "foo"}]),
    "form": request(response_format="json"),
    "choice": request(tools=[{"type": "function", "function": {"name": "f"}}], tool_choice={"a": 1}),
}
TAKEN = {
    "text": request(),
    "parts": request([{"type": "text", "text": "a"}, {"type": "image_url", "image_url": {"url": "data:,"}}]),
    "class": request(response_format=Form),
    "mapping": request(response_format={"type": "json_object"}),
    "choice": request(
        tools=[{"type": "function", "function": {"name": "f"}}],
        tool_choice={"type": "function", "function": {"name": "f"}},
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_litellm_refuses_for_everybody_is_refused(name):
    """With the word the real model gets, and no status."""
    with pytest.raises(Exception, match=r".") as caught:
        litellm.completion(model="openai/m", api_key="k", mock_response="answered", **REFUSED[name])
    fault = refusal(REFUSED[name])
    assert caught.value is not None
    assert (fault.failure, fault.status) == ("bad_request", None)


@pytest.mark.parametrize("name", TAKEN)
def test_what_litellm_takes_is_taken(name):
    """A fake that is stricter than the real thing would be of no use."""
    assert litellm.completion(model="openai/m", api_key="k", mock_response="answered", **TAKEN[name])
    assert refusal(TAKEN[name]) is None


def test_the_parts_are_those_that_litellm_knows():
    """Of messages of a user; it looks at no others."""
    assert set(ValidUserMessageContentTypes) == _PARTS
    assert refusal({"messages": [{"role": "assistant", "content": [{"type": "foo"}]}]}) is None


def test_a_class_is_written_out_as_openai_takes_it():
    """And what is no class is left as it is."""
    written = as_sent(request(response_format=Form))["response_format"]
    assert (written["type"], written["json_schema"]["name"]) == ("json_schema", "Form")
    plain = request()
    assert as_sent(plain) is plain
