"""What a store does in one exchange. A time here is in seconds; every member exchanges as often as a test says."""

from __future__ import annotations

import json
from typing import Any

import pytest

from llm_fallback.fleet.messages import Claim, Overtaken, Request, Response, in_ms
from llm_fallback.fleet.state import FleetState

LEASE_S = 1.0


class Members:
    """Members of one state, with a clock."""

    def __init__(self) -> None:
        self.state, self.now = FleetState(), 1_000_000.0
        self.numbers: dict[str, int] = {}

    def exchange(self, member: str, *claims: Claim, evidence: str = "", **changes: Any) -> Response:
        number = self.numbers.get(member, 0)
        request = Request(
            **{
                "member": member,
                "number": number + 1,
                "answered": number,
                "epoch": "",
                "lease_s": LEASE_S,
                "is_active": True,
                "evidence": evidence,
                "claims": claims,
                **changes,
            }
        )
        self.numbers[member] = request.number
        return self.state.exchange(request, in_ms(self.now))

    def settle(self, *members: str) -> None:
        """Let the time pass in which nothing is granted, while these exchange."""
        for _ in range(6):
            for member in members:
                self.exchange(member)
            self.now += 0.2


def claim(wanted: float = 0, **changes: Any) -> Claim:
    return Claim(**{"resource": "rpm", "capacity": 10, "window_s": 60, "wanted": wanted, **changes})


@pytest.fixture
def members() -> Members:
    members = Members()
    members.settle("a", "b")
    return members


def units(response: Response) -> float:
    return response.grants[0].units


def test_the_sum_of_what_is_granted_never_exceeds_the_capacity(members):
    """However much each wants, and in whichever order."""
    held = {"a": 0.0, "b": 0.0}
    for _ in range(20):
        for member in held:
            held[member] += units(members.exchange(member, claim(100, held=held[member], need=held[member] + 1)))
    assert sum(held.values()) == 10


def test_each_gets_its_part_of_what_is_free_first(members):
    """So that the first to ask leaves something for the others."""
    assert units(members.exchange("a", claim(100))) == 5


def test_a_small_need_is_met_though_it_is_more_than_a_part(members):
    """What is granted must be of use to a request that waits."""
    assert units(members.exchange("a", claim(8, need=8))) == 8


def test_nothing_is_granted_that_is_too_little_to_be_of_use(members):
    """It would only be missing elsewhere, where it may be enough."""
    members.exchange("a", claim(8, need=8))
    assert units(members.exchange("b", claim(8, need=8))) == 0


def test_more_than_the_whole_capacity_is_granted_when_nothing_else_counts(members):
    """Like a process on its own, which sends a request that is larger than its limit when nothing else was sent."""
    assert units(members.exchange("a", claim(25, need=25))) == 25
    assert units(members.exchange("b", claim(1, need=1))) == 0


def test_a_member_that_uses_a_little_leaves_no_room_for_more_than_the_whole(members):
    """Else the sum would be more than the capacity."""
    members.exchange("b", claim(charges=((1, 30.0),)))
    assert units(members.exchange("a", claim(25, need=25))) == 0


def test_what_it_holds_is_part_of_what_it_needs(members):
    """Beyond that it gets its part of what is free."""
    assert units(members.exchange("a", claim(8, held=2, need=4))) == 4


def test_a_member_on_its_own_may_have_it_all():
    """From the first moment at which anything is granted."""
    members = Members()
    assert units(members.exchange("a", claim(10))) == 0
    members.now += LEASE_S
    [grant] = members.exchange("a", claim(10)).grants
    assert (grant.units, grant.fence, grant.used) == (10, 1, {"a": 10})


def test_nothing_used_or_used_up_counts_for_nothing(members):
    """Not even as a row of the table."""
    [grant] = members.exchange("a", claim(charges=((0, 9.0), (5, 0.0)))).grants
    assert (grant.charged, grant.used) == (0, {})


def test_what_was_used_counts_until_its_time_and_no_longer_for_being_remembered(members):
    """By those to whom it was told."""
    members.exchange("a", claim(charges=((10, 1.0),)))
    for _ in range(2):
        assert units(members.exchange("b", claim(1, need=1, remembered={"a": 10}))) == 0
        members.now += 0.5
    assert units(members.exchange("b", claim(1, need=1))) == 1


def test_a_member_that_was_answered_more_than_is_known_has_seen_data_that_are_lost(members):
    """Also one that is not known at all."""
    before = members.exchange("a").epoch
    members.numbers["c"] = 1
    assert members.exchange("c").epoch != before


def test_what_is_given_back_is_there_for_others(members):
    """A claim replaces the member's last one as a whole."""
    members.exchange("a", claim(8, need=8))
    members.exchange("a", claim(0, held=0))
    assert units(members.exchange("b", claim(8, need=8))) == 8


def test_what_was_used_counts_for_as_long_as_its_member_says(members):
    """A duration, from when the store hears of it."""
    members.exchange("a", claim(charges=((10, 3.0),)))
    assert units(members.exchange("b", claim(1, need=1))) == 0
    for _ in range(16):
        members.now += 0.2
        members.exchange("b")
    assert units(members.exchange("b", claim(1, need=1))) == 1


def test_a_lease_whose_holder_is_gone_counts_as_used_for_its_window(members):
    """From the end of the lease: until then it may be used."""
    members.exchange("a", claim(10, need=10, window_s=5.0))
    for _ in range(29):
        members.now += 0.2
        assert units(members.exchange("b", claim(1, need=1, window_s=5.0))) == 0
    members.now += 0.4
    assert units(members.exchange("b", claim(1, need=1, window_s=5.0))) == 1


def test_an_answer_that_got_lost_leaves_nothing_behind(members):
    """The member does not know of what was granted, and says so with its next claim."""
    members.exchange("a", claim(10, need=10))
    members.exchange("a", claim(0, held=0))
    assert members.exchange("b", claim(1)).grants[0].charged == 1


def test_a_request_that_comes_late_changes_nothing(members):
    """A later one of the same member was there before."""
    members.exchange("a", claim(charges=((2, 30.0),)))
    for back in (2, 0):
        members.numbers["a"] -= back
        with pytest.raises(Overtaken):
            members.exchange("a", claim(charges=((9, 30.0),)))
    assert members.exchange("b", claim()).grants[0].charged == 2


def test_after_a_loss_of_data_nothing_is_granted_for_a_lease_time(members):
    """Until then every member has been there and has said what it has used."""
    before = members.exchange("a", claim(charges=((7, 30.0),))).epoch
    members.state = FleetState()
    lost = members.exchange("b", claim(10, need=4))
    assert (lost.epoch != before, units(lost)) == (True, 0)
    members.exchange("a", claim(charges=((7, 30.0),)))
    members.settle("a", "b")
    assert units(members.exchange("b", claim(10, need=4))) == 0
    assert units(members.exchange("b", claim(10, need=3))) == 3


def test_what_the_dead_had_used_is_restored_by_those_who_remember_it(members):
    """A member is told what each has used, and tells it to a store that has lost it."""
    members.exchange("a", claim(charges=((7, 30.0),)))
    told = members.exchange("b", claim()).grants[0].used
    members.state = FleetState()
    members.exchange("b", claim(remembered=told))
    members.settle("b")
    assert units(members.exchange("b", claim(10, need=4))) == 0


def test_what_is_remembered_never_lowers_what_is_known(members):
    """Amounts that only grow are merged by their maximum."""
    members.exchange("a", claim(charges=((7, 30.0),)))
    members.exchange("b", claim(remembered={"a": 3}))
    assert members.exchange("b", claim()).grants[0].charged == 7


def test_an_old_copy_is_known_by_the_members_that_were_further(members):
    """Whose last answered exchange it does not know."""
    old = members.state.as_data()
    copied = json.loads(json.dumps(old))
    for _ in range(3):
        members.exchange("a")
    members.state = FleetState.from_data(copied)
    assert units(members.exchange("a", claim(5))) == 0
    assert members.state.grants_from > in_ms(members.now)


def test_a_clock_that_is_set_back_makes_nothing_last_longer(members):
    """Time in a store never goes back; what counts for three seconds counts for three."""
    members.exchange("a", claim(charges=((10, 3.0),)))
    members.now -= 3600
    members.exchange("a", claim(charges=((10, 2.9),)))
    for _ in range(16):
        members.now += 0.2
        members.exchange("b")
    assert units(members.exchange("b", claim(1, need=1))) == 1


def test_a_clock_that_is_set_forward_is_a_loss_of_data(members):
    """What counted may count no more by that clock, so every member has to say it again."""
    members.exchange("a", claim(charges=((10, 30.0),)))
    members.now += 3600
    assert units(members.exchange("b", claim(1, need=1))) == 0
    members.exchange("a", claim(charges=((10, 29.0),)))
    members.settle("a", "b")
    assert units(members.exchange("b", claim(1, need=1))) == 0


def test_members_are_those_that_were_heard_of_lately_and_make_calls(members):
    """A process that only has the model loaded takes no part of the limits."""
    assert members.exchange("c", is_active=False).members == 2
    members.now += 2.8
    assert members.exchange("a").members == 2
    members.now += 0.1
    assert members.exchange("a").members == 1


def test_who_leaves_is_counted_no_more(members):
    """A process that ends says so."""
    members.exchange("b", leaves=True)
    assert members.exchange("a").members == 1


def test_evidence_reaches_the_others_with_its_age(members):
    """Each member's own, as it said it last."""
    members.exchange("a", evidence="the primary is down")
    members.now += 0.3
    assert members.exchange("b").evidence == {"a": (0.3, "the primary is down")}
    assert members.exchange("a", evidence="").evidence == {}
    assert members.exchange("b").evidence == {}


def test_what_a_member_has_told_is_kept_for_an_hour(members):
    """Though it is heard of no more."""
    members.exchange("a", evidence="the primary is down")
    members.now += 3600
    assert members.exchange("b").evidence == {"a": (3600, "the primary is down")}
    members.now += 0.001
    assert members.exchange("b").evidence == {}


def test_a_fence_rises_with_every_grant_also_after_a_loss(members):
    """A member names the highest it knows."""
    first = members.exchange("a", claim(1)).grants[0].fence
    second = members.exchange("b", claim(1)).grants[0].fence
    assert second == first + 1
    members.state = FleetState()
    members.exchange("a", claim(fence=second))
    members.settle("a")
    assert members.exchange("a", claim(1)).grants[0].fence == second + 1


def test_a_state_is_the_same_after_it_was_written_and_read(members):
    """As a store in a file does with each exchange."""
    members.exchange("a", claim(3, charges=((2, 9.0),)), evidence="x")
    data = json.loads(json.dumps(members.state.as_data()))
    assert FleetState.from_data(data) == members.state
