"""Links in messages that litellm would follow while it translates: nothing that a message points to is fetched here."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from llm_fallback.litellm_adapter.parts import parts_in


class Link(NamedTuple):
    """Where a picture or a file stands, or as what it is meant to be taken."""

    url: str
    """In lower case."""
    has_format: bool
    """Whether its format is told."""
    is_picture: bool
    is_file_id: bool
    """Whether it stands in place of the name of a file that was uploaded."""

    @property
    def leads_elsewhere(self) -> bool:
        """Whether it is an address that can be fetched."""
        return self.url.lstrip().startswith(("http:", "https:"))


def follows_a_link(is_unfit: Callable[[Link], bool], messages: Sequence[Mapping[str, Any]]) -> bool:
    """Whether litellm would fetch a picture or a file of these messages instead of passing it on, for a provider for
    which it does so with what is unfit."""
    for message in messages:
        if type(message.get("content")) is list:
            break
    else:  # Texts alone, as in most calls.
        return False
    return any(map(is_unfit, links_in(messages)))


_PLACES = ("image_url", "file", "source")
_FIELDS = ("url", "file_id", "file_data", "file_url", "data")
_FORMATS = ("format", "mime_type", "content_type", "media_type")
_LONGEST_LINK = 8192
"""Characters. What is longer is a picture itself, as data."""


def links_in(messages: Sequence[Mapping[str, Any]]) -> Iterator[Link]:
    """The pictures and files of messages."""
    for message in messages:
        for part in parts_in(message, _is_no_text):
            if _is_no_text(part):
                yield from _links_of(part)


def _is_no_text(part: Mapping[str, Any]) -> bool:
    return part.get("type") != "text"


def places_of_links(messages: Sequence[Mapping[str, Any]]) -> frozenset[str]:
    """Host and path of every picture and file of messages that can be fetched, in lower case."""
    urls = (link.url.strip() for link in links_in(messages) if link.leads_elsewhere)
    return frozenset(url.partition("//")[2].partition("#")[0] for url in urls)


def _links_of(part: Mapping[str, Any]) -> Iterator[Link]:
    for place, said in (("", part), *((place, part.get(place)) for place in _PLACES)):
        words = said if isinstance(said, Mapping) else {"url": said}
        has_format = any(words.get(name) for name in _FORMATS)
        for field in _FIELDS:
            link = words.get(field)
            if isinstance(link, str):
                yield Link(link[:_LONGEST_LINK].lower(), has_format, place == "image_url", field == "file_id")


def is_unfit_for_most(link: Link) -> bool:
    """Pictures are passed on; of a file that has an address in place of its name litellm would make data."""
    return link.is_file_id and link.leads_elsewhere


def is_unfit_for_anthropic(link: Link) -> bool:
    """Anthropic takes links, but for http; of a picture that looks like a PDF litellm would ask whether it is, unless
    that is told."""
    if link.url.startswith("https://"):
        is_pdf = link.url.endswith(".pdf") or urlsplit(link.url).path.endswith(".pdf")
        return is_pdf and link.is_picture and not link.has_format
    return link.leads_elsewhere


def is_unfit_for_claude_elsewhere(link: Link) -> bool:
    """The same, where others have models, too."""
    return is_unfit_for_anthropic(link) or is_unfit_for_most(link)


_GOOGLES_FILES = "https://generativelanguage.googleapis.com/v1beta/files/"


def is_unfit_for_gemini(link: Link) -> bool:
    """Gemini takes files that were uploaded to it, and no links; of a file in a bucket litellm would ask what it is,
    unless that is told."""
    if link.url.startswith("gs://"):
        return not link.has_format and "." not in link.url.rpartition("/")[2]
    return link.leads_elsewhere and not link.url.startswith(_GOOGLES_FILES)


def is_unfit_for_who_takes_data(link: Link) -> bool:
    """Amazon and Ollama take pictures as data, which litellm would make of any link."""
    return link.leads_elsewhere
