"""Links that litellm would follow are told before it translates; those a provider takes are passed on."""

from __future__ import annotations

from typing import Any

import pytest

from llm_fallback import ChainExhausted, build_chat_model
from llm_fallback.litellm_adapter.links import follows_a_link
from llm_fallback.litellm_adapter.providers import provider_called
from tests.litellm_adapter.test_direct_and_relayed_alike import heard


def asked(part: dict[str, Any]) -> list[dict[str, Any]]:
    return [{"role": "user", "content": "?"}, {"role": "user", "content": [{"type": "text", "text": "?"}, part]}]


def picture(url: str, **words: str) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": url, **words}}


@pytest.mark.parametrize(
    ("part", "follows"),
    [
        (picture("http://127.0.0.1:1/a.png"), True),
        (picture("HTTP://127.0.0.1:1/a.png"), True),
        ({"type": "image_url", "image_url": "http://127.0.0.1:1/a.png"}, True),
        (picture("https://127.0.0.1:1/a.pdf?x=1"), True),
        (picture("https://127.0.0.1:1/a.pdf", format="application/pdf"), False),
        (picture("https://127.0.0.1:1/a.png"), False),
        (picture("data:image/png;base64,AAAA"), False),
        ({"type": "file", "file": {"file_id": "https://127.0.0.1:1/a.pdf"}}, False),
        ({"type": "text", "text": "http://127.0.0.1:1/a.png"}, False),
        ({"type": "image_url"}, False),
    ],
)
def test_anthropic_is_told_of_links_but_for_those_litellm_would_follow(part, follows):
    """It takes https itself; http is downloaded, and what may be a PDF is looked at. Of most others litellm downloads a
    file that has an address in place of its name."""
    assert follows_a_link(provider_called("anthropic").is_unfit, asked(part)) is follows
    assert follows_a_link(provider_called("hosted_vllm").is_unfit, asked(part)) is ("file_id" in part.get("file", ()))


@pytest.mark.parametrize("way", ["direct", "relayed"])
@pytest.mark.parametrize("mode", ["invoke", "stream"])
def test_a_deployment_that_would_be_sent_a_followed_link_is_passed_over(way, mode):
    """Nobody listens at the link: had it been followed, the call would have failed by that."""
    words = {"model": "anthropic/claude-sonnet-4-5", "api_key": "sk-given", "api_base": "http://127.0.0.1:1"}
    message = {"role": "user", "content": [picture("http://127.0.0.1:1/a.png")]}
    with heard(way), build_chat_model({"deployments": {"a": words}, "chains": {"c": {"tiers": ["a"]}}}) as model:
        with pytest.raises(ChainExhausted) as caught:
            list(model.stream([message])) if mode == "stream" else model.invoke([message])
    assert [skip.reason for skip in caught.value.skipped] == ["unsupported"]
    assert not caught.value.attempts


UPLOADED = "https://generativelanguage.googleapis.com/v1beta/files/abc"


def message(part: Any) -> list[dict[str, Any]]:
    return [
        {"role": "system", "content": "Be kind."},
        {"role": "user", "content": [{"type": "text", "text": "?"}, part]},
    ]


@pytest.mark.parametrize(
    ("part", "follows"),
    [
        ({"type": "image_url", "image_url": {"url": "https://a.test/b.png"}}, True),
        ({"type": "image_url", "image_url": "HTTP://a.test/b"}, True),
        ({"type": "image_url", "image_url": {"url": "https://a.test/b", "format": "image/png"}}, True),
        ({"type": "file", "file": {"file_id": "https://a.test/b.pdf"}}, True),
        ({"type": "input_file", "file_url": "https://a.test/b.pdf"}, True),
        ({"type": "image_url", "image_url": {"url": "gs://bucket/what"}}, True),
        ({"type": "image_url", "image_url": {"url": "gs://bucket/what", "format": "image/png"}}, False),
        ({"type": "file", "file": {"file_id": "gs://bucket/b.pdf"}}, False),
        ({"type": "image_url", "image_url": {"url": UPLOADED}}, False),
        ({"type": "file", "file": {"file_id": UPLOADED}}, False),
        ({"type": "image_url", "image_url": {"url": "data:image/png;base64,aHR0cHM6Ly8="}}, False),
        ({"type": "text", "text": "see https://a.test/b.png"}, False),
        ("https://a.test/b.png", False),
    ],
)
def test_a_link_that_gemini_does_not_take_would_be_fetched(part: Any, follows: bool) -> None:
    """Whatever kind of part it stands in; a text that names one is a text."""
    assert follows_a_link(provider_called("gemini").is_unfit, message(part)) is follows


def test_other_providers_links_are_theirs() -> None:
    """Nothing is known of them here."""
    part = {"type": "image_url", "image_url": {"url": "https://a.test/b.png"}}
    assert not follows_a_link(provider_called("hosted_vllm").is_unfit, message(part))
