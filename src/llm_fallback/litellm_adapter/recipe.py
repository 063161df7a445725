"""A model's recipe, to be sent to other processes: each builds the model once, on first use."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from llm_fallback._forks import fork_safe_lock
from llm_fallback.errors import BudgetExceeded, ChainExhausted, LLMFallbackError
from llm_fallback.litellm_adapter.build import build_chat_model
from llm_fallback.spec.overrides import read_spec

if TYPE_CHECKING:
    from llm_fallback.litellm_adapter.chat_model import FallbackChatModel

_models: dict[str, FallbackChatModel] = {}
"""The models of this process, by the ids of their recipes."""
_lock = fork_safe_lock()


class Recipe:
    """What a model is built from, for Ray Data, Spark, Dask and multiprocessing, whose workers cannot be sent a model.

        answer = Recipe("llm-fallback.yaml", chain="cheap")
        answer("What is 6 x 7?")                       # a reply, of the model of whichever process this is
        dataset.map_batches(answer.batches(prompt="text", answer="answer"))

    The spec is read here, and its variables are resolved where the model is built. A Recipe pickles if its overrides do
    and its spec has no key in clear. Raises SpecError for a wrong spec.
    """

    def __init__(self, source: Any, *, chain: str | None = None, **overrides: Any) -> None:
        self._spec, self._chain, self._overrides = read_spec(source), chain, overrides
        self._id = uuid4().hex

    def __call__(self, *input: Any, **options: Any) -> Any:
        """The reply to an input, as `model.invoke` gives it; without one, the model of this process."""
        model = self._model()
        return model.invoke(*input, **options) if input else model

    def _model(self) -> FallbackChatModel:
        with _lock:
            if self._id not in _models:
                _models[self._id] = build_chat_model(self._spec, chain=self._chain, **self._overrides)
            return _models[self._id]

    def batches(self, prompt: str = "prompt", answer: str = "answer", *, concurrency: int = 16) -> Batches:
        """A function of batches of rows: prompts are in the column `prompt`, answers go to the column `answer`."""
        return Batches(self, prompt, answer, concurrency)

    def __repr__(self) -> str:
        return f"Recipe(chain={self._chain or self._spec.default_chain!r})"


class Batches:
    """Answers a batch of rows: a mapping of columns, a pandas DataFrame or an Arrow table, and returns the same kind.

    It adds three columns: the answer's text; `llm_fallback`, the facts of the call; and `error`, the failure and its
    message. The last two are JSON. What there is none of is null: a row that fails fails alone.
    """

    def __init__(self, recipe: Recipe, prompt: str, answer: str, concurrency: int) -> None:
        self._recipe, self._prompt, self._answer, self._concurrency = recipe, prompt, answer, concurrency

    def __call__(self, batch: Any) -> Any:
        prompts = _column(batch, self._prompt)
        config: Any = {"max_concurrency": self._concurrency}
        replies = self._recipe().batch(prompts, config, return_exceptions=True) if prompts else []
        rows = [_row(reply) for reply in replies]
        names = (self._answer, "llm_fallback", "error")
        return _with_columns(batch, {name: [row[index] for row in rows] for index, name in enumerate(names)})


def _row(reply: Any) -> tuple[str | None, str | None, str | None]:
    """Answer, facts and error of one row."""
    if isinstance(reply, LLMFallbackError):
        return None, _facts(reply), json.dumps({"failure": _failure(reply), "message": str(reply)})
    if isinstance(reply, BaseException):
        raise reply  # It is no failure of a row: an interrupt, or a prompt that is none.
    return reply.text, json.dumps(reply.response_metadata["llm_fallback"]), None


def _failure(error: LLMFallbackError) -> str:
    return "budget" if isinstance(error, BudgetExceeded) else str(getattr(error, "failure", "error"))


def _facts(error: LLMFallbackError) -> str | None:
    if not isinstance(error, ChainExhausted):
        return None
    attempts = [attempt.as_metadata() for attempt in error.attempts]
    return json.dumps({"chain": error.chain, "deployment": None, "attempts": attempts})


def _column(batch: Any, name: str) -> list[Any]:
    columns = list(batch) if isinstance(batch, Mapping) else [str(column) for column in _columns(batch)]
    if name not in columns:
        raise ValueError(f"the batch has no column {name!r}; it has {', '.join(map(repr, columns))}")
    values = batch[name]
    if hasattr(values, "to_pylist"):
        return list(values.to_pylist())
    return list(values.tolist() if hasattr(values, "tolist") else values)


def _columns(batch: Any) -> Sequence[Any]:
    names: Sequence[Any] = batch.column_names if hasattr(batch, "column_names") else list(batch.columns)
    return names


def _with_columns(batch: Any, added: Mapping[str, list[str | None]]) -> Any:
    if isinstance(batch, Mapping):
        numpy = sys.modules.get("numpy")
        is_arrays = numpy is not None and any(isinstance(column, numpy.ndarray) for column in batch.values())
        made = (
            {name: numpy.array(values, dtype=object) for name, values in added.items()}
            if is_arrays and numpy
            else added
        )
        return {**batch, **made}
    if hasattr(batch, "append_column"):
        import pyarrow

        for name, values in added.items():
            column = pyarrow.array(values, pyarrow.string())
            known = batch.schema.get_field_index(name)
            batch = batch.append_column(name, column) if known < 0 else batch.set_column(known, name, column)
        return batch
    return batch.assign(**added)
