"""What LangChain asks for, as the engine knows it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from llm_fallback.budget import Payer
from llm_fallback.engine import Call
from llm_fallback.exchange import Transcript
from llm_fallback.plan import ChainPlan, Feature
from llm_fallback.replies import message_of
from llm_fallback.structured import Structured

_NOT_SENT = ("chain", "model", "stream", "metadata", "run_manager", "callbacks", "timeout", "max_retries")
"""Words of the merged request that are the chain's or LangChain's, not the deployment's."""

_CHARACTERS_OF_A_PICTURE = 4000


def call_of(words: Mapping[str, Any], chain: ChainPlan, form: Structured | None, payer: Payer) -> Call:
    """The call that ChatLiteLLM's merged words ask of a chain."""
    request = {name: value for name, value in words.items() if name not in _NOT_SENT}
    if words.get("metadata"):
        request["metadata"] = words["metadata"]
    streamed = bool(words.get("stream"))
    if streamed:
        request["stream"] = True
    chain = _limited(chain, words.get("timeout"), words.get("max_retries"))
    return Call(
        chain=chain,
        request=request,
        streamed=streamed,
        judge=_judge(chain, form),
        features=_features(request),
        tokens=_estimated_tokens(request),
        payer=payer,
    )


def _limited(chain: ChainPlan, timeout: Any, max_retries: Any) -> ChainPlan:
    if timeout is not None:
        chain = replace(chain, total_s=float(timeout))
    if max_retries is not None:
        chain = replace(chain, retries=chain.retries.model_copy(update={"max": int(max_retries)}))
    return chain


def _judge(chain: ChainPlan, form: Structured | None) -> Callable[[Transcript], Any] | None:
    """Who says whether a whole reply will do: the asked form first, then the chain's `accept`."""
    accept = chain.accept
    if form is None:
        return None if accept is None else lambda transcript: accept(message_of(transcript))

    def judge(transcript: Transcript) -> Any:
        message = message_of(transcript)
        verdict = form.verdict(message)
        return verdict if verdict is not True or accept is None else accept(message)

    return judge


def _features(request: Mapping[str, Any]) -> frozenset[Feature]:
    """What the request needs and must not lose on its way to whichever deployment."""
    found: set[Feature] = set()
    if request.get("tools"):
        found.add("tools")
    if request.get("response_format"):
        found.add("response_format")
    if any(_has_image(message) for message in request["messages"]):
        found.add("images")
    return frozenset(found)


def _has_image(message: Mapping[str, Any]) -> bool:
    content = message.get("content")
    return isinstance(content, list) and any(
        isinstance(part, dict) and part.get("type") == "image_url" for part in content
    )


def _estimated_tokens(request: Mapping[str, Any]) -> int:
    """About how many tokens the prompt has, at four characters each: for limits and estimates, not for bills."""
    messages = sum(_characters(message.get("content")) for message in request["messages"])
    calls = sum(len(str(message["tool_calls"])) for message in request["messages"] if message.get("tool_calls"))
    tools = len(str(request["tools"])) if request.get("tools") else 0
    return (messages + calls + tools) // 4


def _characters(content: Any) -> int:
    if isinstance(content, list):
        return sum(_characters_of_part(part) for part in content)
    return len(content or "")


def _characters_of_part(part: Any) -> int:
    """A picture or a recording is as long as its bytes, and is taken for a page of text instead."""
    if isinstance(part, str):
        return len(part)
    return len(part["text"]) if isinstance(part.get("text"), str) else _CHARACTERS_OF_A_PICTURE
