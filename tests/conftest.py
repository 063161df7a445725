"""What holds for all tests: how many examples hypothesis tries, and an environment of their own.

noxfile.py has them run by uvloop (`EVENT_LOOP=uvloop`), and with orjson hidden (`WITHOUT=orjson`).
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, Phase, settings

from tests.thinning import FAST

# How long an example takes says more about who else is on the machine than about the code.
settings.register_profile("full", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("fast", settings.get_profile("full"), max_examples=FAST)
# A failure is enough to know by, and the same examples make the same score. Each test runs twice in one process, a
# method of two objects then.
settings.register_profile(
    "mutants",
    settings.get_profile("fast"),
    phases=[Phase.explicit, Phase.generate],
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.differing_executors],
)
settings.load_profile("full")

if os.environ.get("EVENT_LOOP") == "uvloop":
    import uvloop

    asyncio.set_event_loop_policy(uvloop.EventLoopPolicy())

if os.environ.get("WITHOUT") == "orjson":
    # Others of what the tests install need it, so that it is there.
    from llm_fallback.engine import encoding

    encoding._orjson = None

PRINTING = (
    *("NO_COLOR", "FORCE_COLOR", "CLICOLOR", "CLICOLOR_FORCE", "PY_COLORS", "COLORTERM"),
    *("TTY_COMPATIBLE", "TTY_INTERACTIVE", "COLUMNS", "LINES", "CI", "BUILD_NUMBER"),
)
"""By these rich, click and pytest choose colours, widths and how much of a line they show."""


@pytest.fixture(scope="session", autouse=True)
def _plain_environment() -> Iterator[None]:
    """Programs print the same wherever the tests run: on a terminal, in a build job, behind a pipe."""
    with pytest.MonkeyPatch.context() as patch:
        for name in PRINTING:
            patch.delenv(name, raising=False)
        patch.setenv("TERM", "xterm")
        yield
