"""What is in a message, however deep, is gone through once."""

from __future__ import annotations

from llm_fallback.litellm_adapter.parts import nested


class Level:
    """What makes its inside anew whenever it is asked for."""

    def __init__(self, depth: int) -> None:
        self.depth = depth

    def inner(self) -> list[Level]:
        return [Level(self.depth - 1)] if self.depth else []


def test_what_is_made_on_the_way_is_gone_through_to_its_end():
    """Python gives what comes later the identity of what is gone."""
    assert [level.depth for level in nested(Level(50), Level.inner)] == [*range(50, -1, -1)]


def test_what_contains_itself_is_gone_through_once():
    """Or it would never end."""
    loop: list[object] = [1]
    loop.append(loop)
    assert len(list(nested(loop, lambda value: value if isinstance(value, list) else ()))) == 2
