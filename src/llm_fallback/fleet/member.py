"""One process of a fleet: what it tells the store, and what it makes of the answer. No I/O, no clock of its own.

It reads and writes what the engine knows under the engine's own locks, for a moment before and a moment after an
exchange, never during one.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from random import Random

from llm_fallback._forks import after_fork_in_child
from llm_fallback.engine.budget import Account, Balance, BudgetLimit
from llm_fallback.engine.health import Health
from llm_fallback.fleet.deployment import DeploymentNames, MemberDeployment
from llm_fallback.fleet.escrow import Escrow
from llm_fallback.fleet.evidence import Evidence, Report, decode_evidence, encode_evidence
from llm_fallback.fleet.leases import Lease
from llm_fallback.fleet.messages import Claim, News, Request, Response
from llm_fallback.fleet.names import Names
from llm_fallback.fleet.schedule import FAILURES, Schedule
from llm_fallback.fleet.state import SILENT_LEASES
from llm_fallback.fleet.status import FleetStatus

_ACTIVE_S, _BUSY_S = 60.0, 5.0
"""Seconds since its last call in which a process counts as one that shares the limits, and as one in a hurry."""
JOINING_S = 1.0
"""Seconds a new member waits for the first answer before it goes on without the store."""


class Member:
    """What a process has to do with the others."""

    def __init__(self, names: Names, now: Callable[[], float], rng: Random, processes: int = 1) -> None:
        """`processes`: how many there are, as far as the spec knows; it counts until the store has told."""
        self._names, self.now, self._rng = names, now, rng
        self.processes = processes
        self.hurry: Callable[[], None] = lambda: None
        """Called, with a lock held, when there is something to tell or to ask at once."""
        self.called_at = -math.inf
        """When it made its last call."""
        self.takes_part = True
        """Whether it wants a part of what is shared; who only looks on does not."""
        self.schedule = Schedule(rng)
        self._health: Health | None = None
        self._names_of: Mapping[str, DeploymentNames] = {}
        self._deployments: dict[str, MemberDeployment] = {}
        """By the names of the spec."""
        self._escrows: dict[Balance, tuple[Account, Escrow]] = {}
        self._begin()
        after_fork_in_child(self, Member._begin_child)

    def _begin(self) -> None:
        self.id = f"{self._rng.getrandbits(64):016x}"
        self._number = self._answered = 0
        self._epoch, self._restores = "", False
        self._told_members: int | None = None
        self._answers_until = self.now() + JOINING_S
        self._answered_at: float | None = None
        self._next_at = self.now()
        self._is_news = self._is_telling = False
        """Whether there is something the others had better know at once; whether it was told, and no answer yet."""
        self._heard: dict[str, tuple[float, Evidence]] = {}
        """What each other member has told last, and when."""
        self._news: dict[str, tuple[float, Evidence]] = {}
        """Of that what came by itself, and the answer to the last request may not have yet."""

    def _begin_child(self) -> None:
        """Be another member than the parent is, and hold nothing of what it holds."""
        self._rng = Random()  # The parent's would give the child its parent's next name.
        self.schedule = Schedule(self._rng)
        self.called_at = -math.inf
        self._begin()
        # Health and accounts have begun anew, too, with copies of what they knew.
        self._escrows.clear()
        if self._health is not None:
            self._share(self._health)

    # What deployments and balances ask.

    @property
    def members(self) -> int:
        return max(1, self.processes if self._told_members is None else self._told_members)

    def is_answered(self) -> bool:
        return self.schedule.failures < FAILURES or self.now() < self._answers_until

    def tell(self) -> None:
        self._is_news = True
        self.hurry()

    def next_exchange(self) -> float:
        return max(self.now() + 0.05, self._next_at)

    def share(self, health: Health, names: Mapping[str, DeploymentNames]) -> None:
        """Share these deployments of a model; what is known of those that stayed is kept."""
        with health.lock:
            self._names_of = names
            self._share(health)

    def _share(self, health: Health) -> None:
        self._health, before = health, set(self._deployments.values())
        self._deployments = {}
        for name in health:
            deployment, known = health[name], health[name].shared
            if not (isinstance(known, MemberDeployment) and known in before and known.is_of(deployment)):
                known = MemberDeployment(deployment, self._names_of[name], self)
            deployment.shared = self._deployments[name] = known

    def share_account(self, account: Account, scope: str) -> None:
        """Share the money of a day."""

        def escrow(limit: BudgetLimit, balance: Balance) -> Escrow:
            known = self._escrows.get(balance)
            if known is None:
                resource = self._names.of("usd", scope, balance.day, balance.spender_key or "")
                known = self._escrows[balance] = (account, Escrow(resource, scope, balance, self))
            known[1].limit(limit.usd)
            return known[1]

        account.shared = escrow

    # An exchange.

    def request(self, *, leaves: bool = False) -> Request:
        """What to tell the store now."""
        assert self._health is not None
        now = self.now()
        with self._health.lock:
            evidence = encode_evidence(self._evidence(now))
            self._is_telling |= self._is_news
            self._is_news = False
            claims = [self._claim(lease, now) for each in self._deployments.values() for lease in each.leases(now)]
        claims += self._claims_of_money(now)
        self._number += 1
        return Request(
            member=self.id,
            number=self._number,
            answered=self._answered,
            epoch=self._epoch,
            lease_s=self.schedule.lease_s,
            is_active=now - self.called_at < _ACTIVE_S,
            evidence=evidence,
            claims=tuple(claims),
            is_news=self._is_telling,
            leaves=leaves,
        )

    def receive(self, request: Request, sent_at: float, response: Response) -> None:
        """Take the answer to a request that was sent then."""
        assert self._health is not None
        now = self.now()
        if request.number <= self._answered:
            return
        self._answered = request.number
        # What an answer to this request was late for, is no longer there: the lease runs from its sending.
        expires_at = sent_at + request.lease_s
        self._answers_until, self._answered_at = expires_at, now
        self._restores = response.epoch != self._epoch
        self._epoch, self._told_members = response.epoch, response.members
        self._is_telling = False
        self.schedule.answered(response.members)
        grants = {claim.resource: grant for claim, grant in zip(request.claims, response.grants, strict=True)}
        told = {member: (now - age_s, decode_evidence(text)) for member, (age_s, text) in response.evidence.items()}
        with self._health.lock:
            for deployment in self._deployments.values():
                for lease in deployment.all_leases:
                    if lease.resource in grants:
                        lease.receive(grants[lease.resource], expires_at, restores=self._restores)
            # What came by itself since the request was sent may be later than the answer.
            self._news = {member: said for member, said in self._news.items() if said[0] >= sent_at}
            self._heard = {**told, **self._news}
            self._learn(now)
        for account, escrow in list(self._escrows.values()):
            with account.lock:
                if escrow.resource in grants:
                    escrow.receive(grants[escrow.resource], expires_at, restores=self._restores)
                    escrow.told()
        self._health.notify_waiters()

    def hear(self, news: News) -> None:
        """Take what another member has told the store just now."""
        if news.member == self.id or self._health is None:
            return
        now, said = self.now(), decode_evidence(news.evidence)
        with self._health.lock:
            self._news[news.member] = self._heard[news.member] = (now, said)
            self._learn(now)
        self._health.notify_waiters()

    def lost(self) -> bool:
        """Take that a request was not answered; whether the store has not been answering for a lease time."""
        self.schedule.failed()
        if self.is_answered():
            return False
        if self._health is not None:
            with self._health.lock:
                for deployment in self._deployments.values():
                    deployment.forget_others()
            self._health.notify_waiters()
        return True

    def pause_s(self) -> float:
        """Seconds until the next exchange."""
        pause_s = self.schedule.pause_s(is_idle=self.now() - self.called_at > _BUSY_S)
        self._next_at = self.now() + pause_s
        return pause_s

    def _claim(self, lease: Lease, now: float) -> Claim:
        claim = lease.claim(now, self.members, restores=self._restores)
        return claim if self.takes_part else replace(claim, wanted=0.0, need=0.0)

    def _claims_of_money(self, now: float) -> list[Claim]:
        claims = []
        for balance, (account, escrow) in list(self._escrows.items()):
            with account.lock:
                claims.append(self._claim(escrow, now))
                if escrow.is_over and not account.is_todays(balance):
                    del self._escrows[balance]
        return claims

    def _evidence(self, now: float) -> Evidence:
        deployments = self._deployments.values()
        facts = tuple(fact for each in deployments if (fact := each.fact(now)) is not None)
        fences = {each.names.deployment: each.fence for each in deployments if each.fence}
        healed = {each.names.deployment: each.healed for each in deployments if each.healed}
        return Evidence(facts, fences, healed)

    def _learn(self, now: float) -> None:
        reports: dict[str, list[Report]] = defaultdict(list)
        fences: dict[str, int] = defaultdict(int)
        healed: dict[str, int] = defaultdict(int)
        silent_s = SILENT_LEASES * self.schedule.lease_s
        for member, (told_at, said) in self._heard.items():
            age_s = now - told_at
            evidence = said.after(age_s, is_heard_of=age_s <= silent_s)
            for fact in evidence.facts:
                reports[fact.deployment].append(Report(member, fact))
            _raise_to(fences, evidence.fences.items())
            _raise_to(healed, evidence.healed.items())
        assert self._health is not None
        for in_spec, deployment in self._deployments.items():
            name = deployment.names.deployment
            if deployment.learn(reports[name], fences[name], healed[name], now):
                self._health.adopted.add(in_spec)

    # What is shown.

    def snapshot(self) -> FleetStatus:
        """Plain data, as `model.state()` shows it."""
        assert self._health is not None
        now = self.now()
        with self._health.lock:
            deployments = {name: deployment.snapshot(now) for name, deployment in self._deployments.items()}
        budgets = []
        for account, escrow in list(self._escrows.values()):
            with account.lock:
                budgets.append(escrow.snapshot(now))
        is_joining = self._answered_at is None and self.is_answered()
        return {
            "store": "joining" if is_joining else "answers" if self.is_answered() else "gone",
            "age_s": None if self._answered_at is None else round(now - self._answered_at, 3),
            "member": self.id,
            "members": self.members,
            "deployments": deployments,
            "budgets": budgets,
        }


def _raise_to(highest: dict[str, int], items: Iterable[tuple[str, int]]) -> None:
    for name, fence in items:
        highest[name] = max(highest[name], fence)
