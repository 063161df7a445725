"""Rows of one group as the tiers they amount to, and the share each has of its tier's load."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import groupby

from llm_fallback.litellm_config.rows import Row
from llm_fallback.litellm_config.sections import Listing

_SHARES: Mapping[str, Callable[[Row], float | None]] = {
    "weight": lambda row: row.draft.data.get("weight"),
    "rpm": lambda row: row.draft.data.get("limits", {}).get("rpm"),
    "tpm": lambda row: row.draft.data.get("limits", {}).get("tpm"),
}
"""What LiteLLM weighs a row by: the first of these that any row of its group has."""


def grouped(rows: Sequence[Row], listing: Listing) -> dict[str, list[list[Row]]]:
    """The tiers of every group, with the weights of their rows set."""
    groups: dict[str, list[Row]] = {}
    for row in rows:
        groups.setdefault(row.group, []).append(row)
    return {name: _tiers(members, listing) for name, members in groups.items()}


def _tiers(rows: list[Row], listing: Listing) -> list[list[Row]]:
    """By `order`. A row LiteLLM asks only when the others are out, as it has no order or share, comes after them."""
    word = next((word for word, share in _SHARES.items() if any(share(row) for row in rows)), None)
    last_order = max((row.order for row in rows if row.order is not None), default=None)

    def place(row: Row) -> tuple[bool, float, bool]:
        unordered = last_order is not None and row.order is None
        return unordered, row.order or 0, word is not None and _SHARES[word](row) is None

    for row in rows:
        unordered, _, shareless = place(row)
        if unordered or shareless:
            missing = "order" if unordered else str(word)
            listing.add(row.path, f"has no {missing}, as others of {row.group!r} have: it is asked after them")
    tiers = [list(tier) for _, tier in groupby(sorted(rows, key=place), place)]
    for tier in tiers:
        _weigh(tier, word)
    return tiers


def _weigh(tier: list[Row], word: str | None) -> None:
    shares = [None if word is None else _SHARES[word](row) for row in tier]
    differ = len(set(shares)) > 1
    for row, share in zip(tier, shares, strict=True):
        row.draft.data.pop("weight", None)
        if share is not None and share != 1 and (word == "weight" or differ):
            row.draft.data["weight"] = share
