"""Prices of models, and the cost of a request's tokens, in Decimal. An unknown price stays None."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Any

from llm_fallback.events import Usage
from llm_fallback.spec.litellm_proxy.words import PRICES

FINEST = Decimal("1e-12")
"""Sums are kept to a trillionth of a dollar, so that they are exact in any order."""

FIRST_GUESS_TOKENS = 256
"""How long a reply is taken to be before its deployment has given one, where the request says nothing."""

_MILLION = Decimal(1_000_000)
_KINDS = {
    key: field.removesuffix("_per_million") for key, (field, _) in PRICES.items() if field.endswith("_per_million")
}
"""Keys of litellm's list for prices per token, and the fields of Prices."""
_TIERS = {
    **{tier: f"_{tier}" for tier in ("flex", "balanced", "priority", "ultrafast")},
    "fast": "_priority",
}
"""Service tiers, and how a key of litellm's list ends that has a price there."""
_ABOVE = re.compile(rf"({'|'.join(_KINDS)})_above_(\d+)(k?)_tokens")


@dataclass(frozen=True, slots=True)
class Prices:
    """US dollars per million tokens, and per request. None where a kind of token has no price of its own."""

    input: Decimal
    output: Decimal
    cached_input: Decimal | None = None
    cache_write: Decimal | None = None
    reasoning: Decimal | None = None
    audio_input: Decimal | None = None
    audio_output: Decimal | None = None
    per_request: Decimal = Decimal(0)
    per_gpu_hour: Decimal = Decimal(0)
    above: tuple[tuple[int, Prices], ...] = ()
    """Pairs of a number of input tokens and the prices of a whole request with more than that; ascending."""

    def cost(self, usage: Usage, seconds: float = 0.0) -> Decimal:
        """The cost in US dollars of an attempt that used these tokens and kept its deployment busy for `seconds`."""
        for threshold, prices in reversed(self.above):
            if usage.input_tokens > threshold:
                return prices.cost(usage, seconds)
        cost = (self._input_cost(usage) + self._output_cost(usage)).scaleb(-6) + self.per_request
        return cost + self.per_gpu_hour * Decimal(str(seconds)) / 3600 if self.per_gpu_hour else cost

    def _input_cost(self, usage: Usage) -> Decimal:
        if not (usage.cached_tokens or usage.cache_write_tokens or usage.audio_input_tokens):
            return usage.input_tokens * self.input
        special = (
            (usage.cached_tokens, self.cached_input),
            (usage.cache_write_tokens, self.cache_write),
            (usage.audio_input_tokens, self.audio_input),
        )
        return _mixed(usage.input_tokens, self.input, special)

    def _output_cost(self, usage: Usage) -> Decimal:
        if not (usage.reasoning_tokens or usage.audio_output_tokens):
            return usage.output_tokens * self.output
        special = ((usage.reasoning_tokens, self.reasoning), (usage.audio_output_tokens, self.audio_output))
        return _mixed(usage.output_tokens, self.output, special)


FREE = Prices(input=Decimal(0), output=Decimal(0))


def _mixed(tokens: int, price: Decimal, special: tuple[tuple[int, Decimal | None], ...]) -> Decimal:
    """The cost of `tokens`, of which some special kinds have prices of their own."""
    total = Decimal(0)
    for count, special_price in special:
        if special_price is not None:
            total += count * special_price
            tokens -= count
    return total + max(tokens, 0) * price


def prices_in(entry: Mapping[str, Any], service_tier: str | None = None) -> Prices | None:
    """The prices in an entry of litellm's list, those of a service tier where it has some; None if it has none per
    token."""
    suffix = _TIERS.get(service_tier.casefold()) if isinstance(service_tier, str) else None
    if suffix is not None:
        entry = {**entry, **{key.removesuffix(suffix): usd for key, usd in entry.items() if key.endswith(suffix)}}
    ranges = entry.get("tiered_pricing")
    prices = _by_range(entry, ranges) if ranges else _prices(entry)
    return None if prices is None else replace(prices, above=(*prices.above, *_above_thresholds(entry, prices)))


def _prices(entry: Mapping[str, Any]) -> Prices | None:
    prices: dict[str, Any] = {
        kind: _per_million(entry[key]) for key, kind in _KINDS.items() if entry.get(key) is not None
    }
    return Prices(**prices) if "input" in prices and "output" in prices else None


def _per_million(usd: Any) -> Decimal:
    return Decimal(str(usd)) * _MILLION


def _above_thresholds(entry: Mapping[str, Any], prices: Prices) -> Iterator[tuple[int, Prices]]:
    """Prices of long prompts, from keys such as `input_cost_per_token_above_200k_tokens`. A kind of token without such
    a key keeps its price from below the threshold."""
    changes: dict[int, dict[str, Any]] = {}
    for key, usd in entry.items():
        match = _ABOVE.fullmatch(key)
        if match and usd is not None:
            threshold = int(match[2]) * (1000 if match[3] else 1)
            changes.setdefault(threshold, {})[_KINDS[match[1]]] = _per_million(usd)
    # xAI's higher prices begin at the threshold, all others' above it.
    offset = 1 if entry.get("litellm_provider") == "xai" else 0
    for threshold, changed in sorted(changes.items()):
        prices = replace(prices, **changed)
        yield threshold - offset, prices


def _by_range(entry: Mapping[str, Any], ranges: Sequence[Mapping[str, Any]]) -> Prices | None:
    """Prices by ranges of input tokens; a prompt beyond the last range is priced as in it."""
    output = {"output_cost_per_token": entry.get("output_cost_per_token")}
    by_tokens = [row for row in ranges if "range" in row]
    priced = {int(row["range"][0]): _prices({**output, **row}) for row in by_tokens}
    known = [(begin, prices) for begin, prices in sorted(priced.items()) if prices is not None]
    if not known or len(known) < len(priced):
        return None
    return replace(known[0][1], above=tuple(known[1:]))
