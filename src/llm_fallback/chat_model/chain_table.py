"""A chain as a small table in HTML, for notebooks: its deployments, tier by tier, and how they are."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from html import escape

from llm_fallback.engine.health import DeploymentState
from llm_fallback.plan.plan import ChainPlan
from llm_fallback.spec.shown import shown

_HEADINGS = ("tier", "deployment", "model", "breaker", "in flight", "first token, p95")


def chain_table(plan: ChainPlan, states: Mapping[str, DeploymentState]) -> str:
    """The table. Names are shown as text, whatever is in them; addresses, parameters and keys are not shown."""
    rows = [_row("th", _HEADINGS), *(_row("td", cells) for cells in _cells(plan, states))]
    return f"<table><caption>chain {escape(shown(plan.name))}</caption>{''.join(rows)}</table>"


def _cells(plan: ChainPlan, states: Mapping[str, DeploymentState]) -> Iterator[tuple[str, ...]]:
    for number, tier in enumerate(plan.tiers, 1):
        for member in tier.members:
            state = states[member.name]
            p95_s = state["first_token_p95_s"]
            speed = "-" if p95_s is None else f"{p95_s:.3g} s"
            names = (shown(member.name), shown(member.target.model))
            yield str(number), *names, _breaker(state), str(state["in_flight"]), speed


def _breaker(state: DeploymentState) -> str:
    word = state["breaker"].replace("_", "-")
    return word if state["retry_in_s"] is None else f"{word}, {state['retry_in_s']:.0f} s"


def _row(kind: str, cells: tuple[str, ...]) -> str:
    return f"<tr>{''.join(f'<{kind}>{escape(cell)}</{kind}>' for cell in cells)}</tr>"
