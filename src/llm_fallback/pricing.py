"""Usage times price, in Decimal. What is not known stays None; pricing never fails a call."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal

from llm_fallback.events import Usage

FINEST = Decimal("1e-12")
"""Sums are kept to a millionth of a millionth of a dollar, so that they are exact in any order."""


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
    """What all tokens of a request cost instead if its input has more tokens than that; ascending."""

    def cost(self, usage: Usage, seconds: float = 0.0) -> Decimal:
        """What an attempt cost that used these tokens and kept its deployment busy for `seconds`."""
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
    """Tokens of a kind with a price of its own leave the plain ones; the rest pay the plain price."""
    total = Decimal(0)
    for count, own in special:
        if own is not None:
            total += count * own
            tokens -= count
    return total + max(tokens, 0) * price
