"""What is different in a forked child: every lock is free there, and nothing that the parent had begun goes on.

Only the thread that forks lives on in the child. A lock that another thread held just then would be held for ever, and
a request that another thread had under way would never end.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from typing import Any, TypeVar
from weakref import WeakKeyDictionary, WeakSet

_Owner = TypeVar("_Owner")

_locks = WeakSet[threading.Lock]()
_renewals: WeakKeyDictionary[Any, Callable[[Any], object]] = WeakKeyDictionary()


def fork_safe_lock() -> threading.Lock:
    """A plain lock that a forked child finds free, whoever held it in the parent."""
    lock = threading.Lock()
    _locks.add(lock)
    return lock


def after_fork_in_child(owner: _Owner, renew: Callable[[_Owner], object]) -> None:
    """Have `renew(owner)` called in every forked child, for as long as the owner lives.

    A function, not a method of the owner's own: that would keep the owner alive."""
    _renewals[owner] = renew


def _begin_child() -> None:
    # Not replaced, as several objects may share a lock. Not released either: one that a thread was just about to have
    # calls itself unlocked, and yet nobody gets it. The standard library's own locks begin anew like this.
    for lock in list(_locks):
        lock._at_fork_reinit()  # type: ignore[attr-defined]  # typeshed leaves it out.
    for owner, renew in list(_renewals.items()):
        renew(owner)


if hasattr(os, "register_at_fork"):  # Windows has no fork.
    os.register_at_fork(after_in_child=_begin_child)
