"""Every script word, in every mode, does the same on a fake and on a server behind the real model."""

from __future__ import annotations

import pytest

from llm_fallback.testing import Reply
from tests.asking import MODES, STREAMED, TWO_MODES
from tests.conformance.facts import assert_alike
from tests.conformance.scripts import QUICK, STALLS
from tests.thinning import combinations

SPARE = Reply("the spare one", usage=(3, 4))
CHAINS = {"pair": {"tiers": ["primary", "backup"]}, "alone": {"tiers": ["only"]}}
REPRESENTATIVE = (
    *("fail rate_limited", "fail context_window", "fail connection", "cut reset after 0", "cut error_frame after 2"),
    *("garbage html", "a text", "reasoning", "two tool calls", "empty"),
)
"""The scripts that `make test` plays in all six modes; any other in two."""


@pytest.mark.parametrize(
    ("script", "mode"),
    combinations(QUICK, MODES, fast=lambda script, mode: mode in TWO_MODES or script in REPRESENTATIVE),
)
async def test_what_ends_by_itself(twins, script, mode):
    """Once, then an answer that makes sense; and for ever with nobody else to ask, the repeat included."""
    step = QUICK[script]
    async with twins({"primary": [step], "backup": SPARE, "only": step}, CHAINS) as models:
        for chain in ("pair", "pair", "alone"):
            await assert_alike(models, mode, chain=chain)


@pytest.mark.parametrize(("script", "mode"), combinations(STALLS, MODES, fast=lambda script, mode: mode in TWO_MODES))
async def test_silence(twins, script, mode):
    """Limits end it, before the first token and after it."""
    limits = {"timeouts": {"attempt_s": 0.25, "first_token_s": 0.25, "idle_s": 0.25}}
    async with twins({"primary": STALLS[script], "backup": SPARE}, overrides={"primary": limits}) as models:
        await assert_alike(models, mode)


@pytest.mark.parametrize(
    ("script", "on_break", "mode"),
    combinations(
        [name for name in QUICK if name.startswith("cut")],
        ["hold", "continue"],
        STREAMED,
        fast=lambda script, on_break, mode: mode in TWO_MODES,
    ),
)
async def test_streams_that_break_and_are_not_given_up(twins, script, on_break, mode):
    """Held, or gone on with by the next deployment."""
    backup = Reply("The quick brown fox jumps over the lazy dog.")
    async with twins({"primary": [QUICK[script]], "backup": backup}, on_stream_break=on_break) as models:
        await assert_alike(models, mode)
