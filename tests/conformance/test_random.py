"""Chains at random: whatever two or three deployments do, in whatever mode, fake and server come to the same."""

from __future__ import annotations

import asyncio

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.asking import MODES
from tests.conformance.facts import assert_alike
from tests.conformance.scripts import QUICK
from tests.thinning import examples

STEPS = st.sampled_from([*QUICK.values()])
SCRIPTS = st.lists(STEPS, max_size=3) | STEPS | st.none()
CHAINS = st.dictionaries(st.sampled_from(["a", "b", "c"]), SCRIPTS, min_size=2)


@given(scripts=CHAINS, modes=st.lists(st.sampled_from(MODES), min_size=1, max_size=3), data=st.data())
@settings(max_examples=examples(40), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_chain_at_random(twins, scripts, modes, data):
    """Several calls in a row, so that what is remembered of one shows in the next."""
    on_break = data.draw(st.sampled_from(["raise", "hold", "continue"]), label="on_stream_break")

    async def compare():
        async with twins(scripts, on_stream_break=on_break) as models:
            for mode in modes:
                await assert_alike(models, mode)

    asyncio.run(compare())
