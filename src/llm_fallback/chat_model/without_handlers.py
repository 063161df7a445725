"""Calls that nobody listens to, past the steps that LangChain takes for those who do.

LangChain's `ainvoke` runs `agenerate_prompt`, `agenerate` and `_agenerate_with_cache`; `invoke` runs their twins, and
`stream` and `astream` do the same within themselves. What they do, and what becomes of it here:

- They take LangSmith's word for a form (`ls_structured_output_format`) off the call: here too.
- They describe model, parameters and messages for handlers, make a callback manager and run managers, and tell the
  handlers of the beginning, the end and the error: there are none, by the same `CallbackManager.configure`, which knows
  of tracing, debugging and handlers in context variables. The handler of our own that carries the outermost run's id
  ignores what models tell.
- They bring content of older forms into today's (`_normalize_messages`): calls with other content than texts go
  LangChain's way.
- `agenerate` runs the call in a task of its own, so that several can run at once: there is one. It is cancelled with
  its caller either way. A context variable that a function of the user's sets in it stays set here, as with `invoke`.
- They collect the chunks of a stream, tell the handlers of each, and add them up for the end: there are none. A stream
  without a chunk they refuse; ours has at least one, or raises an error.
- They ask a cache, wait for a rate limiter, and stream where `stream` or `streaming` asks for it: calls with one of
  these go LangChain's way, and so do replies of `output_version` "v1", whose content they rewrite.
- They give a message without an id that of its run, and put what the reply's generation and the model's output say
  into its metadata: here too. Our chunks have that id from the start, and nothing in their generations.
- They build an `LLMResult`, of which `invoke` reads the first message alone.
- An error is raised as it came. What handlers are told of its `response` nobody hears.

A model whose steps of LangChain's are overridden or wrapped, as instruments do, goes through them.
tests/upstream/test_langchain_core.py notices when LangChain's steps change.
"""

from __future__ import annotations

from types import FunctionType
from typing import TYPE_CHECKING, Any
from uuid import UUID

from langchain_core.callbacks import BaseCallbackManager
from langchain_core.globals import get_llm_cache
from langchain_core.language_models import BaseChatModel, LanguageModelInput, chat_models
from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.outputs import ChatResult
from langchain_core.runnables import RunnableConfig
from langchain_core.utils.utils import LC_ID_PREFIX

from llm_fallback.callbacks.root_run import RootRun

if TYPE_CHECKING:
    from collections.abc import Mapping

    from llm_fallback.chat_model.caller import CallContext

_ASIDE = frozenset(
    {"stream", "callbacks", "tags", "metadata", "run_name", "run_id", "run_manager", "messages", "prompts"}
)
"""Words of a call that have another meaning, or none, on LangChain's way."""


def is_plain_call(model: BaseChatModel, words: Mapping[str, Any]) -> bool:
    """Whether a call with these words asks for no more than a whole reply of the model's."""
    if model.rate_limiter or model.output_version == "v1" or not _ASIDE.isdisjoint(words):
        return False
    is_cached = model.cache or (model.cache is None and get_llm_cache() is not None)
    return not is_cached and not getattr(model, "streaming", False)


def is_plain_stream(model: BaseChatModel, words: Mapping[str, Any]) -> bool:
    """Whether a stream with these words is no more than the model's own; LangChain caches none."""
    if model.rate_limiter or model.output_version == "v1" or not _ASIDE.isdisjoint(words):
        return False
    return model._should_stream(async_api=True, **{**words, "stream": True})


def plain_messages(model: BaseChatModel, input: LanguageModelInput) -> list[BaseMessage] | None:
    """The messages of a plain call or stream, if it can go past LangChain's steps."""
    if not _has_langchains_steps(type(model)):
        return None
    messages = model._convert_input(input).to_messages()
    for message in messages:
        if type(message.content) is not str:
            return None
    return messages


def has_no_handlers(model: BaseChatModel, caller: CallContext, config: RunnableConfig) -> bool:
    """Whether no handler is told of a call."""
    # To ask LangChain for the handlers is dear, and in vain where some were given.
    return not (
        caller.listeners
        or _has_handlers(config["callbacks"])
        or _has_handlers(model.callbacks)
        or _has_handlers(caller.handlers)
    )


def _has_handlers(callbacks: Any) -> bool:
    """Whether among handlers, or a manager's, is one that hears what models tell."""
    handlers = callbacks.handlers if isinstance(callbacks, BaseCallbackManager) else callbacks
    return not {*map(type, handlers or ())} <= _TOLD_NOTHING


_TOLD_NOTHING = {RootRun}


def _has_langchains_steps(model: type[BaseChatModel]) -> bool:
    steps = (
        *(BaseChatModel.stream, BaseChatModel.astream),
        *(BaseChatModel.invoke, model.generate_prompt, model.generate, model._generate_with_cache),
        *(BaseChatModel.ainvoke, model.agenerate_prompt, model.agenerate, model._agenerate_with_cache),
    )
    for step in steps:
        if type(step) is not FunctionType or step.__code__.co_filename != chat_models.__file__:
            return False
    return True


def without_forms(words: dict[str, Any]) -> dict[str, Any]:
    """The words of a call without those for LangSmith alone."""
    if not words.pop("ls_structured_output_format", None):
        words.pop("structured_output_format", None)
    return words


def message_of(result: ChatResult, run_id: UUID | None) -> AIMessage:
    """The message of a result, as it is the caller's; the others get the same."""
    generations = result.generations
    output = (result.llm_output or {}) if len(generations) == 1 else {}
    for index, generation in enumerate(generations):
        message = generation.message
        if message.id is None:
            message.id = f"{LC_ID_PREFIX}-{run_id}-{index}"
        message.response_metadata = {**output, **(generation.generation_info or {}), **message.response_metadata}
    message = generations[0].message
    assert isinstance(message, AIMessage)
    return message
