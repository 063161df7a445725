"""What a chain may do, told from its spec alone: no variable has to be set, and no code of the user's runs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from llm_fallback.explain import explain
from llm_fallback.plan import ChainPlan
from llm_fallback.resolve import resolve_spec
from llm_fallback.spec import Spec


class _Unresolved(Mapping[str, str]):
    """An environment in which every variable stands for itself."""

    def __getitem__(self, name: str) -> str:
        return f"${{{name}}}"

    def __iter__(self) -> Iterator[str]:
        return iter(())

    def __len__(self) -> int:
        return 0


def outlook(spec: Spec, chain: str) -> dict[str, Any]:
    """As `model.explain()`, with a note on what was left open."""
    told = explain(plan_of(spec, chain))
    return {**told, "notes": [*told["notes"], *_left_open(spec, chain)]}


def plan_of(spec: Spec, chain: str) -> ChainPlan:
    """The chain made ready, with variables and import paths left as they are."""
    return resolve_spec(_without_imports(spec), _Unresolved()).chains[chain]


def _without_imports(spec: Spec) -> Spec:
    """The spec with a stand-in for every `accept` that would have to be imported."""
    for name in spec.chains:
        if isinstance(spec.accept(name), str):
            spec = spec.with_chain_settings(name, accept=_stand_in)
    return spec


def _stand_in(reply: object) -> bool:
    return True


def _left_open(spec: Spec, chain: str) -> Iterator[str]:
    variables = dict.fromkeys(f"${{{reference.name}}}" for _, reference in spec.references())
    if variables:
        yield f"variables were not resolved: {', '.join(variables)}"
    budget, unpriced = spec.budget(chain), _without_price(spec, chain)
    if budget is not None and budget.limits and unpriced:
        yield f"prices were not looked up: {', '.join(unpriced)}; a model is not built if litellm's list lacks one"
    if isinstance(spec.accept(chain), str):
        yield f"accept was not imported: {spec.accept(chain)}"


def _without_price(spec: Spec, chain: str) -> list[str]:
    return [name for name in spec.chains[chain].deployments() if spec.deployments[name].price is None]
