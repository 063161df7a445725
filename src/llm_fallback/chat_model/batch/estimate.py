"""What a batch would take: requests, tokens and dollars, with nothing sent."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import suppress
from decimal import Decimal
from typing import Any, TypedDict

from llm_fallback.chat_model.batch.journal import Journal
from llm_fallback.chat_model.batch.prompts import NoPrompt, column_of, messages_of
from llm_fallback.chat_model.batch.survey import BatchRequest, Survey, check_paths, source_rows, survey
from llm_fallback.engine.budget import estimate_cost, estimate_output_tokens
from llm_fallback.engine.engine import Engine
from llm_fallback.engine.tokens import estimate_prompt_tokens
from llm_fallback.plan.plan import Target


class BatchEstimate(TypedDict):
    """What is left of a batch, and what it would take."""

    rows: int
    """Of the source."""
    requests: int
    """One for each row that is left; those that fail and are asked elsewhere come on top."""
    input_tokens: int
    """About."""
    output_tokens: int
    """The longest that is allowed (`max_tokens`), else as the deployment's last replies, else a guess."""
    cost_usd: float | None
    """None: the price is not known."""
    deployment: str
    """Whose price it is: the chain's first."""


def estimate(request: BatchRequest, target: Target, engine: Engine, words: Mapping[str, Any]) -> BatchEstimate:
    """The estimate at one deployment; `words` are what each call says beside its messages. Raises BatchRefused as the
    batch itself would. Nothing is written, but for the end of a target that was torn."""
    check_paths(request)
    with Journal(request.journal) as journal:
        try:
            found = survey(request, journal)
        finally:
            journal.discard_empty()
    prompts = [0, 0]
    prices, health, usd = engine.prices(target, words), engine.health[target.name], Decimal(0)
    for tokens in _prompt_tokens(request, found):
        prompts[0] += 1
        prompts[1] += tokens
        if prices is not None:
            usd += estimate_cost(prices, target, words, tokens, health)
    requests, input_tokens = prompts
    return BatchEstimate(
        rows=found.tally.rows,
        requests=requests,
        input_tokens=input_tokens,
        output_tokens=requests * estimate_output_tokens(target, words, health),
        cost_usd=None if prices is None else float(usd),
        deployment=target.name,
    )


def _prompt_tokens(request: BatchRequest, found: Survey) -> Iterator[int]:
    """Of each row that would be asked."""
    for number, row in source_rows(request):
        if not found.is_done(number):
            with suppress(NoPrompt):
                messages = messages_of(row.fields, column_of(row.fields, request.prompt, row.place))
                yield estimate_prompt_tokens(sum(len(message.text) for message in messages))
