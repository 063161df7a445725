"""What a request that litellm wrote asks for: a stream or a whole reply, and which tools."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from llm_fallback.engine.encoding import read_json
from llm_fallback.engine.protocol.reader import ReplyReader
from llm_fallback.litellm_adapter.protocols import protocol_at
from llm_fallback.litellm_adapter.request import DeploymentRequest


def reader_for_sent(request: Any, wanted: DeploymentRequest) -> ReplyReader | None:
    """A reader of the reply to a request that litellm sent; None where only litellm knows what to make of it: another
    protocol, or tools of other names, whose calls it brings into the caller's form."""
    protocol = protocol_at(request.url.path)
    if protocol is None or has_other_tools(request.content, wanted.words):
        return None
    return protocol.reader_for(wanted.target)


_WITH_TOOLS = ("tools", "functions", "response_format")


def has_other_tools(body: bytes, words: Mapping[str, Any]) -> bool:
    """Whether litellm sends other tools than the caller's: it replaces names that a provider does not take, asks models
    of which it knows no other way for JSON by a tool of its own, and puts tools into the prompt of those that have
    none."""
    if not any(words.get(word) for word in _WITH_TOOLS):
        return False
    try:
        document = read_json(body)
    except ValueError:
        return True
    bedrocks = (document.get("toolConfig") or {}).get("tools") or ()
    sent = set(_tool_names((*(document.get("tools") or ()), *bedrocks)))
    return bool(words.get("functions")) or sent != set(_tool_names(words.get("tools") or ()))


def _tool_names(tools: Iterable[Any]) -> Iterator[str]:
    """The names of tools of the caller's, in the form of whichever protocol; a provider's own are left out."""
    for tool in tools:
        if not isinstance(tool, Mapping) or tool.get("type", "custom") not in ("custom", "function"):
            continue
        declared = tool.get("functionDeclarations") or tool.get("function_declarations")
        for one in declared or [tool.get("function") or tool.get("toolSpec") or tool]:
            if isinstance(one.get("name"), str):
                yield one["name"]


_ASKS_FOR_A_STREAM = re.compile(rb'(?<!\\)"stream": ?true')


def asks_for_a_stream(request: Any) -> bool:
    """Whether a request that litellm sent asks for a stream; where it does not, litellm makes one of a whole reply."""
    return "stream" in request.url.path.rpartition("/")[2].lower() or bool(_ASKS_FOR_A_STREAM.search(request.content))
