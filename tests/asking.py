"""The six ways to ask a chat model, behind one call."""

from __future__ import annotations

from typing import Any

MODES = ("invoke", "ainvoke", "stream", "astream", "batch", "abatch")
STREAMED = ("stream", "astream")
TWO_MODES = ("invoke", "astream")
"""A plain one and a streamed one, a sync one and an async one: the engine runs the same code in the others."""


async def ask(asked: Any, mode: str, prompt: Any = "hi", /, **kwargs: Any) -> Any:
    """The message a mode brings, merged if it came in chunks."""
    if mode == "invoke":
        return asked.invoke(prompt, **kwargs)
    if mode == "ainvoke":
        return await asked.ainvoke(prompt, **kwargs)
    if mode == "batch":
        return asked.batch([prompt], **kwargs)[0]
    if mode == "abatch":
        return (await asked.abatch([prompt], **kwargs))[0]
    if mode == "stream":
        return merged(list(asked.stream(prompt, **kwargs)))
    return merged([chunk async for chunk in asked.astream(prompt, **kwargs)])


def merged(chunks: list[Any]) -> Any:
    """Chunks added up, as a caller would."""
    whole = chunks[0]
    for chunk in chunks[1:]:
        whole += chunk
    return whole
