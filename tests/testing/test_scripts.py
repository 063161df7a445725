"""The words of a script, before anybody plays them."""

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import Any, get_args

import pytest

from llm_fallback.events import Failure
from llm_fallback.testing import Cut, Empty, Fail, Garbage, Reply, Stall
from llm_fallback.testing.scripts import Script


def played(script: Script, times: int) -> list[object]:
    return [script.next([]) for _ in range(times)]


def test_a_single_step_is_played_for_ever() -> None:
    """It does not wear out."""
    assert played(Script(Fail(429)), 3) == [Fail(429)] * 3


def test_a_list_is_played_once() -> None:
    """After it comes None: answer sensibly."""
    assert played(Script([Cut(), "fine now"]), 4) == [Cut(), Reply("fine now"), None, None]


@pytest.mark.parametrize("nothing", [None, []])
def test_no_script_is_sensible_from_the_start(nothing: Any) -> None:
    """None and the empty list say nothing."""
    assert Script(nothing).next([]) is None


def test_a_text_is_a_reply() -> None:
    """Alone and in a list."""
    assert Script("hello").next([]) == Script(["hello"]).next([]) == Reply("hello")


def test_what_is_no_word_is_a_type_error_with_the_words() -> None:
    """A mistake in a script shows when it is written, not when it is played."""
    with pytest.raises(TypeError, match="429 is no step of a script; write a str, Reply, Fail"):
        Script([429])  # type: ignore[list-item]


def test_threads_share_a_script_without_losing_or_repeating_a_step() -> None:
    """Every step of a list goes to exactly one of them."""
    script = Script([Reply(str(number)) for number in range(1000)])
    with ThreadPoolExecutor(8) as pool:
        steps = list(pool.map(lambda _: script.next([]), range(1000)))
    assert len({step.text for step in steps if isinstance(step, Reply)}) == 1000
    assert script.next([]) is None


@pytest.mark.parametrize("word", get_args(Failure))
def test_every_failure_can_be_scripted_or_says_how_else(word: str) -> None:
    """What no server can cause is refused with the remedy."""
    if word in ("rejected", "cancelled"):
        with pytest.raises(ValueError, match="no server causes it; "):
            Fail(word)
    else:
        assert Fail(word).failure == word


@pytest.mark.parametrize(
    ("make", "remedy"),
    [
        (lambda: Fail("rate_limitted"), "did you mean 'rate_limited'"),
        (lambda: Fail(200), "use Garbage"),
        (lambda: Reply(tool_calls=[{"tool": "f"}]), 'write {"name": "..."'),
        (lambda: Cut(how="resett"), "did you mean 'reset'"),
        (lambda: Garbage("xml"), "use one of html, no_choices"),
    ],
)
def test_mistakes_name_the_remedy(make: Any, remedy: str) -> None:
    """A ValueError when the word is written."""
    with pytest.raises(ValueError, match=remedy):
        make()


def test_words_are_values() -> None:
    """Equal by content, and fixed once written."""
    assert Stall(2) == Stall(after_chunks=2)
    assert Empty() == Empty()
    with pytest.raises(AttributeError):
        Fail(500).failure = 501  # type: ignore[misc]


def test_importing_the_kit_loads_neither_server_nor_langchain() -> None:
    """The words cost nothing; aiohttp, litellm and langchain come with what needs them."""
    program = (
        "import sys; from llm_fallback.testing import Reply, Fail, Cut; "
        "print([m for m in ('aiohttp', 'litellm', 'langchain_core') if m in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"


def test_an_unknown_name_of_the_kit_is_an_attribute_error() -> None:
    """As of any module."""
    import llm_fallback.testing as kit

    with pytest.raises(AttributeError, match="no attribute 'Replay'"):
        kit.Replay  # noqa: B018
    assert set(kit.__all__) <= set(dir(kit))
