"""What happened, read back from plain data: from a reply's metadata, or from a line of a call log."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from typing import Any

from llm_fallback.events import Attempt, Record, Skip, Stitch, Usage


def record_of(plain: Mapping[str, Any]) -> Record:
    """The record whose `as_metadata()` this is."""
    return Record(
        chain=plain["chain"],
        deployment=plain["deployment"],
        model=plain["model"],
        fell_back=plain["fell_back"],
        attempts=tuple(attempt_of(attempt) for attempt in plain["attempts"]),
        skipped=tuple(Skip(skip["deployment"], skip["reason"], skip["retry_in_s"]) for skip in plain["skipped"]),
        latency_s=plain["latency_s"],
        time_to_first_token_s=plain["time_to_first_token_s"],
        stitches=tuple(Stitch(stitch["deployment"], stitch["at"]) for stitch in plain.get("stitches", ())),
    )


def attempt_of(plain: Mapping[str, Any]) -> Attempt:
    """The attempt whose `as_metadata()` this is; with what only a log has besides, where it has it."""
    cost, usage = plain["cost_usd"], plain.get("usage")
    return Attempt(
        deployment=plain["deployment"],
        model=plain["model"],
        outcome=plain["outcome"],
        failure=plain["failure"],
        status=plain["status"],
        message=plain.get("message"),
        latency_s=plain["latency_s"],
        time_to_first_token_s=plain["time_to_first_token_s"],
        cost_usd=None if cost is None else Decimal(str(cost)),
        cost_estimated=plain.get("cost_estimated", False),
        dropped_params=tuple(plain.get("dropped_params", ())),
        usage=Usage(**usage) if usage else None,
        provider=plain.get("provider", ""),
        started_at=plain.get("started_at_s", 0.0),
        paused_s=plain.get("paused_s", 0.0),
    )
