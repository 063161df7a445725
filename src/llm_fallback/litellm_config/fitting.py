"""Drafts made to fit a spec: what a spec would refuse is listed instead, with the reason it would give."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from llm_fallback.litellm_config.sections import Draft, Listing
from llm_fallback.spec import Defaults, Deployment, agreement
from llm_fallback.spec.marks import Path, Problem
from llm_fallback.spec.wording import parsed

_WHO_IS_ASKED = ("model", "backend", "api_base", "api_key")
"""Without one of these another server would be asked, or with another key: then rather none."""


def fit_deployment(draft: Draft, row: Path, group: str, listing: Listing) -> bool:
    """Drop what does not fit a deployment; False, and listed whole, if it cannot be asked without that."""
    while problems := _problems(draft.data):
        for problem in problems:
            if problem.path[:1] == () or problem.path[0] in _WHO_IS_ASKED:
                listing.add(row, f"{group!r} is left out: {'.'.join(map(str, problem.path))} {problem.text}")
                return False
        _drop(draft, problems[0], listing)
    return True


def fit_defaults(draft: Draft, listing: Listing) -> None:
    """Drop what does not fit the defaults of a spec."""
    while isinstance(problems := parsed(Defaults, draft.data), list) and problems:
        _drop(draft, problems[0], listing)


def _problems(data: Mapping[str, Any]) -> list[Problem]:
    outcome = parsed(Deployment, data)
    found = outcome if isinstance(outcome, list) else []
    together = agreement.problems({"deployments": {"it": data}})
    return [*found, *(Problem(problem.path[2:], problem.text) for problem in together)]


def _drop(draft: Draft, problem: Problem, listing: Listing) -> None:
    path = problem.path[:2]
    listing.add(draft.origin(path), f"{problem.text}: left out")
    draft.drop(path)
