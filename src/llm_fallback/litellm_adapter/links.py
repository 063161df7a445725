"""Links in messages that litellm would follow while it translates: nothing that a message points to is fetched here."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit


def follows_a_link(provider: str, messages: Sequence[Mapping[str, Any]]) -> bool:
    """Whether litellm would fetch a picture or a file of these messages for this provider of its, instead of passing
    it on."""
    follows = _FOLLOWED.get(provider)
    return follows is not None and any(follows(*link) for link in _links(messages))


_PLACES = ("url", "file_id", "file_data", "file_url")
_FORMATS = ("format", "mime_type", "content_type")
_LONGEST_LINK = 8192
"""Characters. What is longer is a picture itself, as data."""


def _links(messages: Sequence[Mapping[str, Any]]) -> Iterator[tuple[str, bool, bool]]:
    """Where pictures and files stand, in lower case; whether their format is told; whether it is a picture."""
    for message in messages:
        content = message.get("content")
        for part in content if isinstance(content, list) else ():
            if not isinstance(part, Mapping):
                continue
            for place, said in (("", part), ("image_url", part.get("image_url")), ("file", part.get("file"))):
                words = said if isinstance(said, Mapping) else {"url": said}
                has_format = any(words.get(name) for name in _FORMATS)
                links = (words.get(name) for name in _PLACES)
                is_picture = place == "image_url"
                yield from (
                    (link[:_LONGEST_LINK].lower(), has_format, is_picture) for link in links if isinstance(link, str)
                )


def _is_unfit_for_anthropic(url: str, has_format: bool, is_picture: bool) -> bool:
    """Anthropic takes links, but for http; of a picture that looks like a PDF litellm would ask whether it is, unless
    that is told."""
    is_pdf = url.startswith("https://") and (url.endswith(".pdf") or urlsplit(url).path.endswith(".pdf"))
    return url.startswith("http://") or (is_pdf and is_picture and not has_format)


_GOOGLES_FILES = "https://generativelanguage.googleapis.com/v1beta/files/"


def _is_unfit_for_gemini(url: str, has_format: bool, is_picture: bool) -> bool:
    """Gemini takes files that were uploaded to it, and no links; of a file in a bucket litellm would ask what it is,
    unless that is told."""
    if url.startswith("gs://"):
        return not has_format and "." not in url.rpartition("/")[2]
    return url.startswith(("http://", "https://")) and not url.startswith(_GOOGLES_FILES)


_FOLLOWED: Mapping[str, Callable[[str, bool, bool], bool]] = {
    "anthropic": _is_unfit_for_anthropic,
    "gemini": _is_unfit_for_gemini,
}
"""By litellm's name for the provider."""
