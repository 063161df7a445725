"""Names of groups and ids, when a chain is written as LiteLLM's groups, and the way back.

A chain's name is the group of its first tier, `<chain>/2`, ... are the later ones, `<chain>/on_context_window` and
`<chain>/on_content_policy` begin the other routes; ids are `<group>/<deployment>`, of the tiers `<chain>/<deployment>`.
A name that somebody else has gets a slash more: LiteLLM takes an id that is a group's name for the group.
"""

from __future__ import annotations

import re
from collections.abc import Container, Iterable

from llm_fallback.litellm_config.routes import Fallbacks

_END = r"/+(\d+|(on_context_window|on_content_policy)(/+\d+)?)"
_OF_A_CHAIN, _OF_SOME_CHAIN = re.compile(_END), re.compile(f"{_END}$")


def group_name(chain: str, route: str, number: int, taken: Container[str]) -> str:
    """The group of a route's n-th tier; `taken` are the names of all chains."""
    start = chain if route == "tiers" else free(chain, route, taken)
    return start if number == 1 else free(start, str(number), taken)


def free(start: str, end: str, taken: Container[str]) -> str:
    """`<start>/<end>`, with as many slashes as it takes."""
    name = f"{start}/{end}"
    while name in taken:
        start += "/"
        name = f"{start}/{end}"
    return name


def owner(group: str, groups: Iterable[str], kinds: Iterable[Fallbacks]) -> str | None:
    """The chain that a group is a tier of, by its name and because the chain falls back to it; else None."""
    for chain in groups if _OF_SOME_CHAIN.search(group) else ():
        end = group.removeprefix(chain)
        if end != group and _OF_A_CHAIN.fullmatch(end) and any(group in kind.targets.get(chain, ()) for kind in kinds):
            return chain
    return None


def deployment_name(identity: str, group: str, chain: str | None) -> str:
    """What an id calls a deployment."""
    for start in (group, chain):
        name = identity.removeprefix(f"{start}/")
        if name != identity and name.strip("/"):
            return name.lstrip("/")
    return identity
