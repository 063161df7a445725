"""The abilities of a chain: those that all of its deployments have, since any of them may have to answer.

Named as in LangChain's ModelProfile, where a missing key means "not known".
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from llm_fallback.plan.model_list import entry_of
from llm_fallback.plan.plan import ChainPlan, Feature, Member, Target, Tiers
from llm_fallback.spec import Deployment, Spec
from llm_fallback.spec.locations import Path
from llm_fallback.spec.settings import ROUTES

Profile = Mapping[str, Any]

PROFILE_KEYS: Mapping[Feature, str] = {
    "tools": "tool_calling",
    "response_format": "structured_output",
    "images": "image_inputs",
}
"""The profile's name of each feature. A deployment known to lack one that a request needs is passed over."""

_FEATURE_NAMES = {"tool_calling": "tools", "structured_output": "JSON schemas", "image_inputs": "images"}
_WINDOW = "max_input_tokens"


def declared(target: Target) -> dict[str, Any]:
    """The abilities of a deployment that the spec declares."""
    window = {} if target.context_window is None else {_WINDOW: target.context_window}
    return {**window, **target.profile}


def chain_profile(chain: ChainPlan, known: Callable[[Target], Profile]) -> dict[str, Any] | None:
    """The abilities known of every deployment of a chain; None if none are.

    The context window is the smallest of the usual deployments, without those of `on_context_window`, which take the
    prompts beyond it.
    """
    usual = [known(member.target) for member in _members(chain.tiers, chain.on_content_policy)]
    windows = [{_WINDOW: profile.get(_WINDOW)} for profile in usual]
    return {**common([known(member.target) for member in chain.members]), **common(windows)} or None


def common(profiles: Sequence[Profile]) -> dict[str, Any]:
    """What holds for all profiles. A key missing in one is missing in the result, unless another says false."""
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
    """The features each deployment is declared to lack while others have them: such calls cannot fall back to it."""
    lost = [word for word in _FEATURE_NAMES if any(profile.get(word) is not False for profile in profiles.values())]
    lacking = {name: [_FEATURE_NAMES[w] for w in lost if profile.get(w) is False] for name, profile in profiles.items()}
    return {name: words for name, words in lacking.items() if words}


def passed_over(chain: ChainPlan) -> Iterator[str]:
    """For `explain`: which calls pass over which deployments."""
    for name, words in shortfalls({member.name: member.target.profile for member in chain.members}).items():
        yield f"calls with {' or '.join(words)} pass {name} over"


def lost_by_falling_back(spec: Spec) -> Iterator[tuple[Path, str]]:
    """For `check`: deployments that cannot replace others of their chain."""
    for name in spec.chains:
        paths = _paths(spec, name)
        known = {
            member: {**_image_profile(spec.deployments[member]), **spec.deployments[member].profile} for member in paths
        }
        for member, words in shortfalls(known).items():
            what = " or ".join(words)
            yield (
                paths[member],
                f"{member!r} takes no {what}, so calls with {what} pass it over; "
                "put a deployment that does in its place, or ask it by a chain of its own",
            )


def _image_profile(deployment: Deployment) -> Profile:
    """Whether litellm's list says that a hosted model takes no images. For tools and schemas litellm's code decides,
    which is not imported here."""
    entry = entry_of(deployment.model, deployment.base_model, deployment.backend) or {}
    return {"image_inputs": False} if entry.get("supports_vision") is False else {}


def _paths(spec: Spec, chain: str) -> dict[str, Path]:
    """The path at which a chain first names each deployment."""
    paths: dict[str, Path] = {}
    for field in ROUTES:
        for index, tier in enumerate(getattr(spec.chains[chain], field) or ()):
            for inner, member in enumerate(tier):
                if spec.deployments[member].weight > 0:
                    path = ("chains", chain, field, index)
                    paths.setdefault(member, path if len(tier) == 1 else (*path, inner))
    return paths


def _members(*routes: Tiers | None) -> list[Member]:
    return [member for tiers in routes for tier in tiers or () for member in tier.members]
