"""What holds for all tests: how many examples hypothesis tries, and an environment of their own."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, settings

from tests.thinning import FAST

# How long an example takes says more about who else is on the machine than about the code.
settings.register_profile("full", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("fast", settings.get_profile("full"), max_examples=FAST)
settings.load_profile("full")

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
