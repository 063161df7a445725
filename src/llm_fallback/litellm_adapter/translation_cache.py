"""Requests that litellm translated before: two calls of a chain mostly differ in the text of their messages alone.

Translating is half of what a call costs, and for a conversation of plain text its outcome is known after two: address,
headers and parameters are the same, messages stand in the body as they were given. That is looked at, twice, before it
is relied on; whatever is not such a conversation, or was seen to be translated otherwise, is translated each time.
docs/decisions/0012-translated-before.md.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias

import litellm

from llm_fallback.litellm_adapter.request import DeploymentRequest
from llm_fallback.litellm_adapter.translation import HTTPRequest, translate

_MOST = 64
"""Templates of one deployment; a request with parameters of its own each time needs no more than to be forgotten."""
_PLAIN_KEYS = {"role", "content"}
_SHAPING = frozenset(
    {
        *("supports_system_message", "ensure_alternating_roles", "user_continue_message", "assistant_continue_message"),
        *("cache_control_injection_points", "enable_prompt_caching", "roles", "custom_prompt_dict"),
    }
)
"""Parameters by which litellm is asked to make other messages of the messages."""
_SWITCHES = ("drop_params", "modify_params", "model_alias_map", "openai_system_messages_first")
"""Settings of litellm's module that change how it translates; part of the cache key, so a change applies to the next
request."""

_Kind: TypeAlias = tuple[Any, ...]
"""What requests with the same template have in common."""


@dataclass(slots=True)
class _Template:
    """What translations had in common so far."""

    request: HTTPRequest = field(repr=False)
    words: Mapping[str, Any] = field(repr=False)
    """The body, its messages left out."""
    is_proven: bool = False
    """Whether a second translation came to the same."""

    def filled(self, messages: Sequence[Mapping[str, Any]]) -> HTTPRequest:
        """The request with these messages. Raises ValueError for a lone surrogate, which cannot be encoded."""
        body = json.dumps({**self.words, "messages": messages}, ensure_ascii=False, separators=(",", ":"))
        known = self.request
        return HTTPRequest(known.url, known.headers, body.encode(), known.query)


class TranslationCache:
    """What is known of how litellm translates for one deployment."""

    def __init__(self) -> None:
        self._known: dict[_Kind, _Template | None] = {}

    def translate(self, request: DeploymentRequest) -> HTTPRequest:
        """The request litellm would send. Raises what `translate` raises."""
        kind = _kind(request)
        if kind is None:
            return translate(request.parameters())
        known = self._known
        template = known.get(kind)
        if template is not None and template.is_proven:
            return template.filled(request.messages)
        translated = translate(request.parameters())
        if kind not in known:
            if len(known) >= _MOST:
                known.clear()
            known[kind] = _learnt(None, translated, request.messages)
        elif template is not None and known.get(kind) is template:  # And nobody learnt otherwise meanwhile.
            known[kind] = _learnt(template, translated, request.messages)
        return translated


@dataclass(slots=True)
class DeploymentMemory:
    """What requests to one deployment taught."""

    dropped: set[str] = field(default_factory=set)
    """Parameters it was found not to take."""
    translations: TranslationCache = field(default_factory=TranslationCache)
    is_left_to_litellm: bool = False
    """Whether its requests were found not to be what litellm translates into one request."""


def _learnt(known: _Template | None, request: HTTPRequest, messages: Sequence[Mapping[str, Any]]) -> _Template | None:
    """What is known after one more translation; None if messages do not stand in it as they were given, or it differs
    from the one before in something else: then nothing is to be learnt here."""
    words = json.loads(request.body)
    if words.get("messages") != messages:
        return None
    words["messages"] = None
    if known is None:
        return _Template(request, words)
    same = (known.words, known.request.url, known.request.headers, known.request.query)
    return replace(known, is_proven=True) if same == (words, request.url, request.headers, request.query) else None


def _kind(request: DeploymentRequest) -> _Kind | None:
    """What a translation depends on besides the text of plain messages; None if there is more to them than that."""
    words = request.words
    if request.target.uses_provider_credentials:
        return None  # Whatever login litellm finds by itself is litellm's to renew.
    reshapes = not (_SHAPING.isdisjoint(request.target.parameters) and _SHAPING.isdisjoint(words))
    if reshapes or _adds_headers() or not _are_plain(request.messages):
        return None
    try:
        rest = json.dumps([words, sorted(request.dropped | request.left_out)])
    except (TypeError, ValueError):  # Something in Python's own form, like a class: litellm knows what to do with it.
        return None
    roles = "".join([message["role"][0] for message in request.messages])
    # The key as it is given: a SecretStr shows in no dump.
    return (rest, roles, request.key, *[repr(getattr(litellm, name, None)) for name in _SWITCHES])


def _adds_headers() -> bool:
    """Whether litellm adds headers of its own to every request: a token that is good for an hour is asked for each
    time, and in a template it would be sent for ever."""
    return litellm.proxy_auth is not None or bool(litellm.headers)


def _are_plain(messages: Sequence[Mapping[str, Any]]) -> bool:
    """Whether these are texts of user and assistant, perhaps after one of the system."""
    roles: tuple[str, ...] = ("user", "assistant", "system")
    for message in messages:
        text = message.get("content")
        if (
            message.keys() != _PLAIN_KEYS
            or message["role"] not in roles
            or not isinstance(text, str)
            or not text.strip()
        ):
            return False
        roles = ("user", "assistant")
    return True
