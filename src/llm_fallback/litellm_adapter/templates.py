"""Requests that litellm translated before: two calls of a chain mostly differ in their messages alone.

Translating costs several times what the rest of a call does. What it comes to beside the messages (address, headers,
parameters) is the same for requests of one kind; what it makes of a message is known, once litellm was seen to make the
same of two of its shape, in the same company, as a writer does here. That is looked at each time litellm is asked, and
what was seen to differ is never relied on again. docs/decisions/0018-one-road.md.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import litellm

from llm_fallback.engine.encoding import write_json
from llm_fallback.engine.protocol.values import Unreadable, decode
from llm_fallback.litellm_adapter.logins import Login, TokenProvider
from llm_fallback.litellm_adapter.message_writers import Shape, Unusual, shape_of
from llm_fallback.litellm_adapter.protocols import TranslatedRequest
from llm_fallback.litellm_adapter.providers import provider_called
from llm_fallback.litellm_adapter.request import DeploymentRequest, deployment_headers, sampling_of
from llm_fallback.plan.plan import Target
from llm_fallback.plan.provider_credentials import key_variables
from llm_fallback.spec.secrets import is_secret_name, unmask

logger = logging.getLogger("llm_fallback")

_MOST = 64
"""Templates of one deployment; a request with parameters of its own each time needs no more than to be forgotten."""
_MOST_SHAPES = 1024
_PROOFS = 2
"""How often litellm has to be seen to do the same."""
_DIFFERS = -1
"""In place of their number, for a shape that litellm was seen to write otherwise."""

_SHAPING = frozenset(
    {
        *("supports_system_message", "ensure_alternating_roles", "user_continue_message", "assistant_continue_message"),
        *("cache_control_injection_points", "enable_prompt_caching", "roles", "custom_prompt_dict"),
    }
)
"""Parameters by which litellm is asked to make other messages of the messages."""
_SWITCHES = ("drop_params", "modify_params", "model_alias_map", "openai_system_messages_first")
"""Settings of litellm's module that change how it translates; part of what a template is known by, so a change applies
to the next request."""


@dataclass(slots=True)
class _Template:
    """What requests of one kind have in common."""

    request: TranslatedRequest = field(repr=False)
    words: Mapping[str, Any] = field(repr=False)
    """The body, with nothing in the places of the messages."""
    proofs: int = 1
    """How many translations came to it."""


class RequestTemplates:
    """What is known of how litellm translates for one deployment."""

    def __init__(self) -> None:
        self._templates: dict[Hashable, _Template | None] = {}
        """None: translations of the kind differ in more than their messages."""
        self._shapes: dict[Hashable, int] = {}
        """How often litellm wrote a message of a shape, in its company, as it is written here."""
        self.login: Login | None = None
        """What has to be put on a known request before it is sent."""

    def known(self, request: DeploymentRequest) -> TranslatedRequest | None:
        """The request litellm would send, if that is known."""
        try:
            kind, shapes = _read(request)
            template = self._templates.get(kind)
            if template is None or template.proofs < _PROOFS or not self._are_proven(shapes):
                return None
            known = template.request
            written = known.protocol.writer.write(request.messages)
            # By hand: `replace` makes twice the function calls.
            body = write_json({**template.words, **written})
            return TranslatedRequest(known.url, known.headers, body, known.protocol)
        except (Unusual, ValueError):
            return None

    def _are_proven(self, shapes: Sequence[Hashable]) -> bool:
        return min([self._shapes.get(shape, 0) for shape in shapes]) >= _PROOFS

    def learn(self, request: DeploymentRequest, translated: TranslatedRequest) -> None:
        """Take note of what litellm would send."""
        if not _logs_in_for_good(request, translated):
            login = login_of(request.target, translated)
            if login is None:
                return
            self.login, translated = login, login.strip(translated)
        try:
            kind, shapes = _read(request)
            writer, words = translated.protocol.writer, decode(translated.body)
            written = writer.write(request.messages)
        except (Unusual, Unreadable):
            return
        # Messages come out of the body, and what remains are its words.
        self._note_shapes(shapes, [words.pop(place, None) == written.get(place) for place in writer.places])
        self._note_template(kind, replace(translated, body=b""), words)

    def _note_shapes(self, shapes: Sequence[Hashable], is_alike: Sequence[bool]) -> None:
        known = self._shapes
        if len(known) > _MOST_SHAPES:
            known.clear()
        unproven = {shape for shape in shapes if known.get(shape, 0) < _PROOFS}
        if all(is_alike):
            for shape in unproven:
                if known.get(shape, 0) != _DIFFERS:
                    known[shape] = known.get(shape, 0) + 1
        elif len(unproven) <= 1:
            # The only one of which it is not known, or somebody who was believed. Of several it may be any.
            known.update(dict.fromkeys(unproven or shapes, _DIFFERS))

    def _note_template(self, kind: Hashable, request: TranslatedRequest, words: Mapping[str, Any]) -> None:
        templates = self._templates
        if kind not in templates:
            if len(templates) >= _MOST:
                templates.clear()
            templates[kind] = _Template(request, words)
        elif (template := templates[kind]) is not None:
            is_same = (template.request, template.words) == (request, words)
            templates[kind] = replace(template, proofs=template.proofs + 1) if is_same else None


@dataclass(slots=True)
class DeploymentMemory:
    """What requests to one deployment taught."""

    dropped: dict[Hashable, set[str]] = field(default_factory=dict)
    """Parameters it was found not to take, by what else a request asks for."""
    templates: RequestTemplates = field(default_factory=RequestTemplates)
    token_provider: TokenProvider | None = None
    """What it asks for tokens, where its spec names a function."""
    is_left_to_litellm: bool = False
    """Whether its requests were found not to be what litellm translates into one request."""

    def dropped_for(self, request: Mapping[str, Any]) -> set[str]:
        """The parameters it was found not to take in a request like this, for more to be added."""
        sampling = sampling_of(request)
        if sampling not in self.dropped and len(self.dropped) >= _MOST:
            self.dropped.clear()
        return self.dropped.setdefault(sampling, set())

    def leave_to_litellm(self, target: Target, why: Exception) -> None:
        """Leave all further requests to litellm whole."""
        logger.info("%s is left to litellm: %s", target.name, why)
        self.is_left_to_litellm = True


def _read(request: DeploymentRequest) -> tuple[Hashable, list[Hashable]]:
    """What the translation depends on besides the messages, and the shape of each message, with its company: who spoke
    before, whether there are pictures anywhere, whether it is the last. Raises Unusual."""
    words = request.words
    if not (_SHAPING.isdisjoint(request.target.parameters) and _SHAPING.isdisjoint(words)) or _adds_headers():
        raise Unusual
    try:
        rest = write_json([words, sorted(request.dropped | request.left_out)])
    except ValueError:  # Something in Python's own form, like a class: litellm knows what to do with it.
        raise Unusual from None
    before, with_pictures = None, False
    alone: list[Shape] = []
    company: set[Hashable] = set()
    for message in request.messages:
        shape = shape_of(message)
        alone.append(shape)
        company.add((shape.role, shape.fields, shape.has_pictures))
        with_pictures = with_pictures or shape.has_pictures
    shapes: list[Hashable] = []
    for shape in alone:
        shapes.append((before, with_pictures, shape))
        before = shape.role
    if not shapes:
        raise Unusual
    shapes[-1] = (shapes[-1], "last")
    # The key as it is given: a SecretStr shows in no dump.
    login = _login_of_the_environment(request.target) if request.key is None else request.key
    return (rest, frozenset(company), login, *[repr(getattr(litellm, name, None)) for name in _SWITCHES]), shapes


def _login_of_the_environment(target: Target) -> Hashable:
    """What litellm finds in variables to log in with. Raises Unusual where it has to ask somebody."""
    if not target.uses_provider_credentials:
        return None
    values = tuple([os.environ.get(name) for name in key_variables(target.litellm_provider)])
    if not any(values) and provider_called(target.litellm_provider).login is None:
        raise Unusual
    return values


def login_of(target: Target, request: TranslatedRequest) -> Login | None:
    """How the deployment logged in to send this request, where that was not by what it was given; None if it is not
    known how to do so again."""
    kind = provider_called(target.litellm_provider).login
    authorization = next((text for name, text in request.headers.items() if name.lower() == "authorization"), "")
    return kind(target, authorization) if kind is not None and authorization.startswith(kind.scheme) else None


def _logs_in_for_good(request: DeploymentRequest, translated: TranslatedRequest) -> bool:
    """Whether every login in the request is one that was given: what litellm asked for or signed ends some day."""
    parameters = request.target.parameters
    given = [*deployment_headers(parameters).values(), *unmask({"it": parameters.get("azure_ad_token")}).values()]
    if request.key is not None:
        given.append(request.key.get_secret_value())
    elif request.target.uses_provider_credentials:
        given += [os.environ.get(name, "") for name in key_variables(request.target.litellm_provider)]
    logins = [text for name, text in translated.headers.items() if is_secret_name(name) or name.lower() in _LOGINS]
    return all(any(secret and secret in login for secret in given) for login in logins)


_LOGINS = frozenset({"authorization", "x-amz-date"})


def _adds_headers() -> bool:
    """Whether litellm adds headers of its own to every request: a token that is good for an hour is asked for each
    time, and in a template it would be sent for ever."""
    return litellm.proxy_auth is not None or bool(litellm.headers)
