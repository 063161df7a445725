"""Links in messages: what litellm would fetch for Gemini, and what it passes on."""

from __future__ import annotations

from typing import Any

import pytest

from llm_fallback.litellm_adapter.links import follows_a_link

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
    assert follows_a_link("gemini", message(part)) is follows


def test_other_providers_links_are_theirs() -> None:
    """Nothing is known of them here."""
    part = {"type": "image_url", "image_url": {"url": "https://a.test/b.png"}}
    assert not follows_a_link("hosted_vllm", message(part))
