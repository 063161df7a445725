"""What a chain's model can do: what all of its deployments can, since any of them may have to.

In the words of LangChain's ModelProfile, whose readers take a missing key for "not known".
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from llm_fallback.plan.model_list import candidate_names, first_entry
from llm_fallback.plan.plan import ChainPlan, Feature, Member, Target, Tiers
from llm_fallback.spec import Deployment, Spec
from llm_fallback.spec.locations import Path
from llm_fallback.spec.settings import ROUTES

Profile = Mapping[str, Any]

WORDS: Mapping[Feature, str] = {
    "tools": "tool_calling",
    "response_format": "structured_output",
    "images": "image_inputs",
}
"""The profile's words for what requests may need. A deployment known to lack it is passed over."""

_SAID = {"tool_calling": "tools", "structured_output": "JSON schemas", "image_inputs": "images"}
_WINDOW = "max_input_tokens"


def declared(target: Target) -> dict[str, Any]:
    """What the spec says a deployment can do."""
    window = {} if target.context_window is None else {_WINDOW: target.context_window}
    return {**window, **target.profile}


def chain_profile(chain: ChainPlan, known: Callable[[Target], Profile]) -> dict[str, Any] | None:
    """What every deployment that a call may come to is known to do; None where nothing is known of them all.

    The window is that of the deployments for prompts of usual length; those of `on_context_window` are there for what
    is beyond it.
    """
    usual = [known(member.target) for member in _members(chain.tiers, chain.on_content_policy)]
    windows = [{_WINDOW: profile.get(_WINDOW)} for profile in usual]
    return {**common([known(member.target) for member in chain.members]), **common(windows)} or None


def common(profiles: Sequence[Profile]) -> dict[str, Any]:
    """What holds for all of them. What one leaves open is open, except that one's lack is everybody's."""
    words = dict.fromkeys(word for profile in profiles for word in profile)
    shared = {word: _shared([profile.get(word) for profile in profiles]) for word in words}
    return {word: value for word, value in shared.items() if value is not None}


def _shared(values: list[Any]) -> Any:
    if any(value is False for value in values):
        return False
    if any(value is None for value in values):
        return None
    first, *others = values
    match first:
        case bool() | str():
            return first if all(value == first for value in others) else None
        case list():
            return [item for item in first if all(item in other for other in others)]
    return min(values)


def shortfalls(profiles: Mapping[str, Profile]) -> dict[str, list[str]]:
    """What each deployment is declared to lack, unless all of them do: calls that need it cannot fall back to it."""
    lost = [word for word in _SAID if any(profile.get(word) is not False for profile in profiles.values())]
    lacking = {name: [_SAID[w] for w in lost if profile.get(w) is False] for name, profile in profiles.items()}
    return {name: words for name, words in lacking.items() if words}


def passed_over(chain: ChainPlan) -> Iterator[str]:
    """For `explain`: which calls pass which deployments over."""
    for name, words in shortfalls({member.name: member.target.profile for member in chain.members}).items():
        yield f"calls with {' or '.join(words)} pass {name} over"


def lost_by_falling_back(spec: Spec) -> Iterator[tuple[Path, str]]:
    """For `check`: deployments that cannot stand in for the others of their chain."""
    for name in spec.chains:
        places = _places(spec, name)
        known = {member: {**_blind(spec.deployments[member]), **spec.deployments[member].profile} for member in places}
        for member, words in shortfalls(known).items():
            what = " or ".join(words)
            yield (
                places[member],
                f"{member!r} takes no {what}, so calls with {what} pass it over; "
                "put a deployment that does in its place, or ask it by a chain of its own",
            )


def _blind(deployment: Deployment) -> Profile:
    """What litellm's list says a hosted model lacks and calls pass it over for: images. Of tools and schemas litellm's
    code has the word, and is not loaded for this."""
    entry = first_entry(candidate_names(deployment.model, deployment.base_model, deployment.backend)) or {}
    return {"image_inputs": False} if entry.get("supports_vision") is False else {}


def _places(spec: Spec, chain: str) -> dict[str, Path]:
    """Where the chain first names each deployment it may ask."""
    found: dict[str, Path] = {}
    for field in ROUTES:
        for index, tier in enumerate(getattr(spec.chains[chain], field) or ()):
            for inner, member in enumerate(tier):
                if spec.deployments[member].weight > 0:
                    path = ("chains", chain, field, index)
                    found.setdefault(member, path if len(tier) == 1 else (*path, inner))
    return found


def _members(*routes: Tiers | None) -> list[Member]:
    return [member for tiers in routes for tier in tiers or () for member in tier.members]
