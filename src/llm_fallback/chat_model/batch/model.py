"""A chat model that answers files."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from os import PathLike
from pathlib import Path
from typing import Any, Literal

from langchain_core.language_models import chat_models
from langchain_core.messages import BaseMessage
from langchain_core.runnables import RunnableConfig, ensure_config

from llm_fallback.chat_model.batch.estimate import BatchEstimate, estimate
from llm_fallback.chat_model.batch.job import BatchJob, BatchResult, run_in_thread
from llm_fallback.chat_model.batch.survey import BatchRequest, Tally
from llm_fallback.chat_model.managed import ManagedChatModel
from llm_fallback.spec.overrides import check_call

_normalized: Callable[[list[BaseMessage]], list[BaseMessage]] = getattr(chat_models, "_normalize_messages", list)
"""LangChain's first step, in which it brings the parts of messages into today's form."""


class BatchChatModel(ManagedChatModel):
    """The part of a model over a chain that answers files row by row."""

    def batch_file(
        self,
        source: str | PathLike[str],
        target: str | PathLike[str],
        *,
        concurrency: int | Literal["auto"] = "auto",
        resume: bool = True,
        prompt: str | None = None,
        schema: Any = None,
        retry_failed: bool = False,
        config: RunnableConfig | None = None,
        **kwargs: Any,
    ) -> BatchResult:
        """Answer a file of any length, JSONL, CSV or Parquet by its suffix, and write a row for each of its rows.

        A row has a `prompt` or `messages`, unless `prompt` names another column. The target's row is that row with
        `row` (its number, from 0), `answer`, `llm_fallback` (the facts of the call) and, where it failed, `error`; rows
        come in the order in which they are answered. Answers are texts, or objects of `schema`, as
        `with_structured_output` takes it. `kwargs` are those of `invoke`.

        Killed at any moment and called again, it goes on where it was; `resume=False` begins the target anew. Rows that
        failed stay as they are unless `retry_failed`. A budget stops it, to be resumed. By `concurrency` "auto" as many
        rows are under way as bring more answers, found for each deployment without a `max_parallel` of its own.

        Raises BatchRefused, with nothing sent, if the source cannot be read, the target does not go with it, or another
        batch is writing there.
        """
        request = _batch_request(source, target, prompt, schema, concurrency, resume, retry_failed)
        return run_in_thread(self.batch_job(request, config, **kwargs))

    async def abatch_file(
        self,
        source: str | PathLike[str],
        target: str | PathLike[str],
        *,
        concurrency: int | Literal["auto"] = "auto",
        resume: bool = True,
        prompt: str | None = None,
        schema: Any = None,
        retry_failed: bool = False,
        config: RunnableConfig | None = None,
        **kwargs: Any,
    ) -> BatchResult:
        """Like batch_file. Cancelled, it leaves at once, to be resumed."""
        request = _batch_request(source, target, prompt, schema, concurrency, resume, retry_failed)
        return await self.batch_job(request, config, **kwargs).run()

    def batch_job(
        self,
        request: BatchRequest,
        config: RunnableConfig | None = None,
        *,
        on_progress: Callable[[Tally], None] = lambda tally: None,
        **kwargs: Any,
    ) -> BatchJob:
        """One run of a batch, for who wants to watch or stop it."""
        self._check_open()
        check_call(kwargs)
        chosen = self._chosen_chain(kwargs, ensure_config(config))
        answerer = self if request.schema is None else self.with_structured_output(request.schema, include_raw=True)
        engine = self.runtime.engine
        return BatchJob(
            *(request, answerer, self._plan(chosen), engine),
            config=config,
            words=kwargs,
            on_progress=on_progress,
            flaw_of=self._flaw_of,
        )

    def _flaw_of(self, messages: Sequence[BaseMessage]) -> Exception | None:
        """What LangChain or the class below raises over messages that it cannot write; None where they can be."""
        try:
            self._write(_normalized(list(messages)))
        except Exception as error:  # noqa: BLE001 - what they are not is found out by whatever breaks
            return error
        return None

    def estimate_batch(
        self, request: BatchRequest, config: RunnableConfig | None = None, **kwargs: Any
    ) -> BatchEstimate:
        """What a batch would take, with nothing sent: each row that is left asked once, of the chain's first
        deployment. Source and target are checked as by `batch_file`, which takes the same `config` and `kwargs`."""
        words = {"max_tokens": getattr(self, "max_tokens", None), **kwargs}
        target = self._plan(self._chosen_chain(kwargs, ensure_config(config))).members[0].target
        return estimate(request, target, self.runtime.engine, words)


def _batch_request(
    source: str | PathLike[str],
    target: str | PathLike[str],
    prompt: str | None,
    schema: Any,
    concurrency: int | Literal["auto"],
    resume: bool,
    retry_failed: bool,
) -> BatchRequest:
    if concurrency != "auto" and (isinstance(concurrency, bool) or not isinstance(concurrency, int) or concurrency < 1):
        raise ValueError(f"concurrency must be 'auto' or a whole number from 1, got {concurrency!r}")
    return BatchRequest(Path(source), Path(target), prompt, schema, concurrency, resume, retry_failed)
