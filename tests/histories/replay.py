"""A history of a model played again, to be read.

    python -m tests.histories.replay SEED

Where a promise breaks, the history is played anew and anew with ever less of its plan, and what is left is shown.
"""

from __future__ import annotations

import argparse
import re

from tests.histories.history import History, play
from tests.histories.plans import Plan, plan
from tests.histories.promises import check
from tests.histories.shrink import shrunk
from tests.histories.watching import watched
from tests.histories.world import BrokenPromise


def played(plan: Plan) -> History:
    """The history of a plan, all of whose promises held; else BrokenPromise."""
    return play(plan, watched, check)


def breach(plan: Plan) -> BrokenPromise | None:
    """The promise that a plan breaks."""
    try:
        played(plan)
    except BrokenPromise as broken:
        return broken
    return None


def explained(plan: Plan, broken: BrokenPromise) -> str:
    """What the breach needs, what happens then, and how to play it again."""
    kind = _kind(broken)

    def breaks_alike(tried: Plan) -> bool:
        other = breach(tried)
        return other is not None and _kind(other) == kind

    small = shrunk(plan, breaks_alike)
    again = f"python -m tests.histories.replay {plan.seed}"
    return f"{breach(small)}\n\nplanned:\n{small}\n\nplay it again: {again}"


def _kind(broken: BrokenPromise) -> str:
    """The promise, without what differs from one history to the next."""
    promise = str(broken).partition("\n")[0].partition(": ")[2]
    return re.sub(r"\b(c\d+|last_\w+|[abcd]|\d[\d.]*)\b|'[^']*'", "", promise)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("seed", type=int)
    asked = plan(parser.parse_args().seed)
    found = breach(asked)
    if found is None:
        print(asked, *played(asked).world.history, sep="\n")
    else:
        print(explained(asked, found))
