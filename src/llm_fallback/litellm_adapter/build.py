"""Builds what users ask for: a chat model, declared runnables."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Unpack

from llm_fallback.chat_model.base import ChainChatModel
from llm_fallback.chat_model.caller import Listener
from llm_fallback.chat_model.runnables import FallbackRunnable, declared_runnables
from llm_fallback.spec.load import Source
from llm_fallback.spec.options import ModelOptions

if TYPE_CHECKING:
    from llm_fallback.litellm_adapter.chat_model import FallbackChatModel


def build_chat_model(
    source: Source,
    *,
    chain: str | None = None,
    listeners: Sequence[Listener] = (),
    **options: Unpack[ModelOptions],
) -> FallbackChatModel:
    """A chat model over a chain of a spec: its default chain, or `chain`.

    `source` is a Spec, a path, a mapping, or a list of model names, which makes a chain in one line. `listeners` are
    called with every event of every call, in the caller's own thread or task. `options` are settings of chains
    (`timeouts`, `retries`, `accept`, `budget`, `hedge`, `on_stream_break`), which hold for whichever chain is asked;
    LangChain's fields and words (`callbacks`, `tags`, `timeout`, `max_retries`, ...); or request parameters
    (`temperature`, ...).

    Raises SpecError, with every mistake, for a wrong spec, an unset variable or an override that belongs nowhere.
    """
    # Here and not above, because it loads litellm, and runnables over a fake do without.
    from llm_fallback.litellm_adapter.chat_model import FallbackChatModel

    return FallbackChatModel(spec=source, chain=chain, listeners=listeners, **options)


def build_runnables(source: Source | ChainChatModel) -> dict[str, FallbackRunnable]:
    """What a spec declares under `runnables`, by name. All share one model, and with it breakers, limits and budgets.

    `source` is what `build_chat_model` takes, or a model it made: then that is the one they share, with its listeners
    and parameters, and closing it closes them.

    Raises SpecError for a wrong spec, an unset variable, or an `output` that cannot be imported or is no form.
    """
    if isinstance(source, ChainChatModel):
        return declared_runnables(source.runtime.spec, lambda spec: source)
    return declared_runnables(source, build_chat_model)
