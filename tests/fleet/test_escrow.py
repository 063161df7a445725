"""Money in escrow: what a member may spend of a day's budget, and what it tells of it. A budget here is a dollar."""

from __future__ import annotations

from dataclasses import dataclass, field
from decimal import Decimal

import pytest

from llm_fallback.engine.budget import Balance
from llm_fallback.fleet.escrow import Escrow
from llm_fallback.fleet.messages import Claim, Grant

CENT = 10_000_000
"""In billionths of a dollar."""
TWO_DAYS_S = 172_800.0


@dataclass
class Fleet:
    """What an escrow knows of its member."""

    members: int = 1
    answers: bool = True
    hurried: int = 0
    balance: Balance = field(default_factory=lambda: Balance("2026-11-30", "tenant-1"))

    def now(self) -> float:
        return 0.0

    def is_answered(self) -> bool:
        return self.answers

    def next_exchange(self) -> float:
        return 0.0

    def hurry(self) -> None:
        self.hurried += 1

    def tell(self) -> None:
        raise AssertionError("money is no news")

    def escrow(self, usd: str = "1", *, charged: float | None = None, held: float = 0.0) -> Escrow:
        """With so much in hand, of which the store says that all have used or hold `charged`."""
        made = Escrow("r", "chain assistant", self.balance, self)
        made.limit(Decimal(usd))
        if charged is not None:
            told(made, charged, held)
        return made


def told(escrow: Escrow, charged: float, held: float = 0.0) -> None:
    """The store has answered."""
    escrow.receive(Grant(held, charged, 1), expires_at=10)
    escrow.told()


def lacks(escrow: Escrow, usd: str | None) -> bool | None:
    """None: that much may be spent. Else whether it helps to wait."""
    shortfall = escrow.shortfall(None if usd is None else Decimal(usd))
    return None if shortfall is None else shortfall[1]


def test_what_is_held_may_be_spent_and_more_is_asked_for_in_a_hurry():
    """As long as there may be more."""
    fleet = Fleet()
    escrow = fleet.escrow()
    assert (lacks(escrow, "0.01"), fleet.hurried) == (True, 1)
    told(escrow, 99 * CENT, CENT)
    assert (lacks(escrow, "0.01"), fleet.hurried) == (None, 1)
    assert (lacks(escrow, "0.02"), fleet.hurried) == (True, 2)
    assert (lacks(escrow, "0.020000001"), fleet.hurried) == (False, 2)
    assert escrow.claim(0, 1).need == CENT


def test_what_is_left_for_all_is_asked_for_though_nothing_is_held():
    """And no more than that."""
    escrow = Fleet().escrow(charged=99 * CENT)
    assert [lacks(escrow, usd) for usd in ("0.01", "0.010000001")] == [True, False]


def test_a_call_of_which_nobody_knows_the_cost_needs_the_least_there_is():
    """A billionth of a dollar."""
    assert lacks(Fleet().escrow(charged=CENT, held=1), None) is None
    assert lacks(Fleet().escrow(charged=CENT), None) is True


def test_what_is_told_with_a_shortfall_is_what_all_have_spent():
    """At most the budget, and at least what was spent here."""
    fleet = Fleet()
    assert fleet.escrow(charged=99 * CENT).shortfall(Decimal(1)) == (Decimal("0.99"), False)
    assert fleet.escrow(charged=120 * CENT).shortfall(Decimal(1)) == (Decimal(1), False)
    fleet.balance.spent = Decimal(2)
    assert fleet.escrow(charged=99 * CENT).shortfall(Decimal(1)) == (Decimal(2), False)


@pytest.mark.parametrize(("members", "usd"), [(0, "1"), (1, "1"), (2, "0.499")])
def test_without_a_store_a_member_spends_its_part_of_the_budget(members, usd):
    """Beyond the slices that others may hold; nothing helps then."""
    for answers in (0, 1):
        escrow = Fleet(members, answers=False).escrow()
        for _ in range(answers):
            escrow.told()
        assert lacks(escrow, usd) is None
        assert lacks(escrow, str(Decimal(usd) + Decimal("1e-9"))) is False


def test_what_was_spent_since_the_store_answered_is_part_of_it():
    """What was spent before is in what it told; others may have gone on as fast as they spent."""
    fleet = Fleet(members=2, answers=False)
    escrow = fleet.escrow()
    fleet.balance.spent = Decimal("0.1")
    assert [lacks(escrow, usd) for usd in ("0.399", "0.399000001")] == [None, False]
    told(escrow, 20 * CENT)
    assert [lacks(escrow, usd) for usd in ("0.2", "0.200000001")] == [None, False]
    told(escrow, 25 * CENT)
    assert [lacks(escrow, usd) for usd in ("0.195", "0.195000001")] == [None, False]


def test_a_member_tells_what_it_has_used_and_wants_a_slice():
    """In whole billionths, rounded up."""
    fleet = Fleet()
    assert Escrow("r", "s", fleet.balance, fleet).claim(0, 1).capacity == 0
    assert fleet.escrow().claim(0, 1) == Claim("r", 1e9, TWO_DAYS_S, (), wanted=2_000_000)
    escrow = fleet.escrow()
    fleet.balance.spent = Decimal("1e-9")
    assert escrow.claim(0, 1).charges == ((1, TWO_DAYS_S),)
    fleet.balance.spent = Decimal("1.1e-9")
    assert escrow.claim(0, 1).charges == ((2, TWO_DAYS_S),)


def test_a_slice_is_a_part_of_the_budget_and_of_what_is_left_of_it():
    """Towards the end a quarter of that at most, and a whole number."""
    assert Fleet().escrow("1.000000001").claim(0, 1).wanted == 2_000_000
    escrow = Fleet().escrow(charged=100 * CENT - 4_000_003)
    assert [escrow.claim(0, members).wanted for members in (0, 1, 4)] == [1_000_000, 1_000_000, 250_000]
    assert Fleet().escrow(charged=120 * CENT).claim(0, 1).wanted == 0


def test_it_is_shown_in_dollars():
    """What is not known as null."""
    shown = {"scope": "chain assistant", "day": "2026-11-30", "spender": "tenant-1", "limit_usd": 1.0}
    escrow = Fleet().escrow()
    assert escrow.snapshot(0) == {**shown, "spent_by_all_usd": None, "held_usd": 0}
    told(escrow, 30 * CENT, CENT)
    assert escrow.snapshot(0) == {**shown, "spent_by_all_usd": 0.3, "held_usd": 0.01}
    assert escrow.snapshot(10)["held_usd"] == 0
