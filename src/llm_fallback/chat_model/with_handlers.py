"""Calls whose handlers listen, past the steps that LangChain takes for several prompts at once.

Handlers are found and told by LangChain's own managers, of the same things in the same order as by `agenerate`. What is
left out of `agenerate` and `_agenerate_with_cache`, beside what `without_handlers` says:

- They run the call, and what tells of its end, in tasks of their own: there is one call. A call that is cancelled is
  told to nobody either way.
- They look anew whether `_agenerate` takes a run manager, and whether a handler wants a stream: a call with such a
  handler goes LangChain's way.
- They build a second `LLMResult`, of all prompts.

Only `ainvoke` goes by here: `invoke` has no tasks, and what would be left to save is little.
"""

from __future__ import annotations

from typing import Any

from langchain_core.callbacks import AsyncCallbackManager
from langchain_core.language_models import BaseChatModel, chat_models
from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.outputs import LLMResult
from langchain_core.runnables import RunnableConfig

from llm_fallback.chat_model.without_handlers import message_of

_langchain: Any = chat_models
_STEPS = (
    *("_filter_invocation_params_for_tracing", "_format_for_tracing", "_format_ls_structured_output"),
    *("_generate_response_from_error", "_V2StreamingCallbackHandler"),
)
_HAS_STEPS = all(hasattr(_langchain, name) for name in _STEPS)
"""Whether this langchain-core has them: without, every call goes its way."""


async def message_with_handlers(
    model: BaseChatModel, messages: list[BaseMessage], config: RunnableConfig, words: dict[str, Any]
) -> AIMessage | None:
    """The message of a call, its handlers told; None, with nobody told or asked, where one of them wants a stream."""
    if not _HAS_STEPS:
        return None
    words = dict(words)
    form = words.pop("ls_structured_output_format", None) or words.pop("structured_output_format", None)
    params = model._get_invocation_params(**words)
    manager = AsyncCallbackManager.configure(
        config.get("callbacks"),
        model.callbacks,
        model.verbose,
        config.get("tags"),
        model.tags,
        {**(config.get("metadata") or {}), **model._get_ls_params_with_defaults(**words)},
        model.metadata,
        langsmith_inheritable_metadata=_langchain._filter_invocation_params_for_tracing(params),
    )
    for handler in manager.handlers:
        # The older kind is a protocol, which is dear to be asked for.
        if isinstance(handler, _langchain._V2StreamingCallbackHandler) or hasattr(handler, "tap_output_aiter"):
            return None
    [run] = await manager.on_chat_model_start(
        model._serialized,
        [_langchain._format_for_tracing(messages)],
        invocation_params=params,
        options={"stop": words.get("stop"), **_langchain._format_ls_structured_output(form)},
        name=config.get("run_name"),
        batch_size=1,
        run_id=config.get("run_id"),
    )
    try:
        result = await model._agenerate(messages, run_manager=run, **words)
    except Exception as error:
        await run.on_llm_error(error, response=LLMResult(generations=[_langchain._generate_response_from_error(error)]))
        raise
    message = message_of(result, run.run_id)
    await run.on_llm_end(LLMResult(generations=[result.generations], llm_output=result.llm_output))
    return message
