"""What holds in a forked child."""

from __future__ import annotations

import os
import signal
import traceback
from collections.abc import Callable


def in_child(work: Callable[[], object]) -> bool:
    """Whether `work()` ends in a forked child, and with something true."""
    child = os.fork()
    if not child:
        is_true = False
        try:
            signal.alarm(30)  # It kills who hangs.
            is_true = bool(work())
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(0 if is_true else 1)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
