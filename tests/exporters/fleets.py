"""A fleet as `model.state()` tells it."""

from __future__ import annotations

from typing import Any


def a_fleet() -> dict[str, Any]:
    """Two report a deployment; of one of its limits nothing was told yet. Yesterday's money is told still, and a
    tenant's own."""
    budget = {"scope": "chain assistant", "spender": None, "limit_usd": 20.0, "held_usd": 0.02}
    limits = {
        "rpm": {"limit": 600, "held": 6.0, "used_by_all": 214},
        "tpm": {"limit": 9000, "held": 0.0, "used_by_all": None},
    }
    return {
        "store": "answers",
        "age_s": 0.2,
        "member": "7ab07e39103d4b3a",
        "members": 8,
        "deployments": {"claude": {"reported_by": ["a", "b"], "limits": limits}},
        "budgets": [
            {**budget, "day": "2026-02-01", "spent_by_all_usd": 3.81},
            {**budget, "day": "2026-01-31", "spent_by_all_usd": 19.9},
            {**budget, "day": "2026-02-01", "spender": "tenant-of-nobody", "spent_by_all_usd": 0.5},
        ],
    }
