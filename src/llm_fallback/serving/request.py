"""Reads a request in OpenAI's form: which chain is asked, for what, and how the answer is wanted.

Messages and parameters go to the engine as they came. What is read is only what the engine relies on; whether a
temperature is one is the model server's to say. What would reach into the server itself (an address, a key) is refused.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from llm_fallback.chat_model.foreign_messages import LEFT_OUT
from llm_fallback.chat_model.history import as_object
from llm_fallback.engine.protocol.values import Unreadable, decode
from llm_fallback.errors import did_you_mean
from llm_fallback.plan.plan import Plan
from llm_fallback.serving.errors import ErrorResponse, RefusedRequest, invalid
from llm_fallback.spec.overrides import MODEL_FIELDS, REQUEST_PARAMETERS, SHARED

_THE_SERVERS = frozenset(
    {
        *SHARED,
        *("extra_body", "extra_headers", "extra_query", "headers", "timeout", "max_retries", "request_timeout"),
        *("guardrailConfig", "cache_control_injection_points", "context_management", "model_kwargs", "streaming"),
    }
)
"""Names that mean something to who sends the request on, and nothing in OpenAI's protocol."""

_PASSED = (REQUEST_PARAMETERS | MODEL_FIELDS) - _THE_SERVERS - {"stream_options"}
"""Parameters that are passed on under their names; others go into the request's body as they are."""

_READ_HERE = frozenset({"model", "messages", "stream", "stream_options", "metadata"})


class ChatRequest(NamedTuple):
    """What one request asks for."""

    chain: str
    words: Mapping[str, Any]
    """Messages and parameters, for `to_call`."""
    streamed: bool
    wants_usage: bool
    """Whether a stream is to end with a chunk of its usage."""
    metadata: Mapping[str, Any]


def read_chat_request(body: bytes, plan: Plan) -> ChatRequest:
    """The request in a body. Raises RefusedRequest."""
    try:
        document = decode(body)
    except Unreadable as error:
        raise invalid(f"the body is {error}") from None
    if not isinstance(document, dict):
        raise invalid("the body is no JSON object")
    asked = {name: value for name, value in document.items() if value is not None}
    refused = _THE_SERVERS.intersection(asked)
    if refused:
        name = min(refused)
        raise invalid(f"{name!r} is not for a caller to say: it stands in the server's spec", name)
    chain = _chain(asked.get("model"), plan)
    streamed, options = _of_type(asked, "stream", bool, False), _of_type(asked, "stream_options", dict, {})
    words: dict[str, Any] = {"messages": _messages(asked.get("messages"))}
    beside: dict[str, Any] = {}
    for name, value in asked.items():
        if name not in _READ_HERE:
            (words if name in _PASSED else beside)[name] = value
    if beside:
        words["extra_body"] = beside
    for name in ("tools", "functions"):
        _objects(words.get(name, ()), name)
    if streamed:
        if _of_type(words, "n", int, 1) > 1:
            raise invalid("a stream has one choice; ask for several without 'stream'", "n")
        words["stream"], words["stream_options"] = True, {"include_usage": True}
    metadata = _of_type(asked, "metadata", dict, {})
    return ChatRequest(chain, words, streamed, bool(options.get("include_usage")), metadata)


def _chain(name: Any, plan: Plan) -> str:
    if name is None:
        return plan.default_chain
    if not isinstance(name, str):
        raise invalid("must be the name of a chain", "model")
    if name not in plan.chains:
        hint = did_you_mean(name, plan.chains, f"there are {', '.join(plan.chains)}")
        message = f"The model {name!r} does not exist: models are the chains of the spec; {hint}"
        raise RefusedRequest(ErrorResponse(404, message, code="model_not_found", param="model"))
    return name


def _of_type(words: Mapping[str, Any], name: str, kind: type[Any], default: Any) -> Any:
    value = words.get(name, default)
    if type(value) is not kind:
        raise invalid(f"must be {_KINDS[kind]}", name)
    return value


_KINDS = {bool: "true or false", int: "a whole number", dict: "an object", list: "a list", str: "a text"}


def _objects(value: Any, param: str) -> Sequence[dict[str, Any]]:
    if not isinstance(value, list | tuple) or not all(type(item) is dict for item in value):
        raise invalid("must be a list of objects", param)
    return value


def _messages(value: Any) -> list[dict[str, Any]]:
    if not value:
        raise invalid("must be a list with at least one message", "messages")
    return [_message(message, f"messages[{at}]") for at, message in enumerate(_objects(value, "messages"))]


def _message(message: dict[str, Any], param: str) -> dict[str, Any]:
    """The message as it is, but for arguments of tool calls that are no object, which servers refuse in a history, and
    for `left_out`, by which the engine knows what of a message nobody gets."""
    if type(message.get("role")) is not str:
        raise invalid("must be a text", f"{param}.role")
    content = message.get("content")
    if type(content) is list:
        if not all(type(part) in (dict, str) for part in content):
            raise invalid("must be a text or a list of parts", f"{param}.content")
    elif content is not None and type(content) is not str:
        raise invalid("must be a text or a list of parts", f"{param}.content")
    if message["role"] == "tool" and type(message.get("tool_call_id")) is not str:
        raise invalid("must be the id of a tool call", f"{param}.tool_call_id")
    if LEFT_OUT in message:
        message = {name: value for name, value in message.items() if name != LEFT_OUT}
    calls = message.get("tool_calls")
    if calls is None:
        return message
    return {**message, "tool_calls": [_tool_call(call, f"{param}.tool_calls") for call in _objects(calls, param)]}


def _tool_call(call: dict[str, Any], param: str) -> dict[str, Any]:
    function = call.get("function")
    if function is None:  # Another kind of tool, which its provider knows.
        return call
    if type(function) is not dict or type(function.get("name")) is not str or type(call.get("id")) is not str:
        raise invalid("must have an id, and a function with a name and arguments", param)
    arguments = function.get("arguments", "")
    if type(arguments) is not str:
        raise invalid("must have arguments that are a text", param)
    readable = as_object(arguments)
    return call if readable == arguments else {**call, "function": {**function, "arguments": readable}}
