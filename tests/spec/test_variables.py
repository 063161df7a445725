"""Variables in texts: what is a reference, what it becomes, and what is said when it is missing."""

import traceback

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr

from llm_fallback.errors import Location, SpecError
from llm_fallback.spec.locations import LocationMap
from llm_fallback.spec.variables import Environment, Reference, malformed, references, resolve

NAMES = st.from_regex(r"[A-Z_][A-Z0-9_]{0,8}", fullmatch=True)
PLAIN = st.text().filter(lambda text: "$" not in text and not text.startswith("os.environ/"))


def test_a_text_names_its_variables_in_order():
    """Plain, defaulted and required variables are told apart, and `$$` is none."""
    assert references("${A}-${B:-x y}-${C:?set it}-$$-$D") == (
        Reference("A"),
        Reference("B", default="x y"),
        Reference("C", message="set it"),
    )


def test_litellms_own_form_is_a_variable_only_as_a_whole_text():
    """`os.environ/KEY` is `${KEY}`; inside a longer text it is just text."""
    assert references("os.environ/KEY") == (Reference("KEY"),)
    assert references("see os.environ/KEY") == ()
    assert resolve("os.environ/KEY", {"KEY": "v"}) == "v"


@pytest.mark.parametrize(
    ("text", "environ", "value"),
    [
        ("http://${HOST}:${PORT:-8000}/v1", {"HOST": "gpu"}, "http://gpu:8000/v1"),
        ("${A:-x}", {"A": ""}, "x"),
        ("${A:-}", {}, ""),
        ("${A}", {"A": ""}, ""),
        ("${A:?why}", {"A": "v"}, "v"),
        ("$$5 and $${A}", {}, "$5 and ${A}"),
        ("${A:-cost $$5}", {}, "cost $5"),
        ("$A costs $", {"A": "v"}, "$A costs $"),
        ("${A}", {"A": "${B}"}, "${B}"),
    ],
)
def test_values_defaults_and_dollars(text, environ, value):
    """An empty variable takes its default, `$$` is one dollar, a value is not resolved again."""
    assert resolve(text, environ) == value


@given(PLAIN)
def test_a_text_without_variables_is_itself(text):
    """Nothing is touched in a text that names no variable."""
    assert resolve(text, {}) == text
    assert references(text) == ()


@given(st.text().filter(lambda text: not text.startswith("os.environ/")))
def test_doubling_every_dollar_keeps_any_text_as_it_is(text):
    """There is a way to write every text literally."""
    doubled = text.replace("$", "$$")
    assert not malformed(doubled)
    assert resolve(doubled, {}) == text


@given(st.lists(st.tuples(PLAIN, NAMES, st.text()), max_size=5))
def test_each_variable_is_replaced_where_it_stands(pieces):
    """A text of plain pieces and variables becomes the pieces and the values."""
    environ = {name: value for _, name, value in pieces}
    text = "".join(f"{plain}${{{name}}}" for plain, name, _ in pieces)
    assert resolve(text, environ) == "".join(plain + environ[name] for plain, name, _ in pieces)


def test_every_unset_variable_is_reported_at_once():
    """One error names them all, and shows the message written for one."""
    with pytest.raises(SpecError) as caught:
        resolve("${A}${B:?see the wiki}${C:-fine}", {"B": ""})
    assert [mistake.problem for mistake in caught.value.mistakes] == [
        "the variable A is not set",
        "the variable B is not set: see the wiki",
    ]


def test_the_error_of_an_unset_variable_holds_no_other_value():
    """Neither text nor frames of the error show what else was in the environment."""
    with pytest.raises(SpecError) as caught:
        resolve("${A}${B}", {"A": "canary-value"})
    shown = str(caught.value) + "".join(
        repr(frame.f_locals)
        for frame, _ in traceback.walk_tb(caught.value.__traceback__)
        if "variables" in frame.f_code.co_filename and "test" not in frame.f_code.co_filename
    )
    assert "canary-value" not in shown


@pytest.mark.parametrize("text", ["${A", "${}", "${1A}", "${A:+b}", "${A:-${B}}", "$${A} ${"])
def test_a_reference_that_is_none_is_noticed(text):
    """A `${` that begins no variable is a slip, not text."""
    assert malformed(text)


def test_an_environment_resolves_nested_data_and_keeps_secrets():
    """Texts in mappings and lists are filled in; what was secret is secret afterwards."""
    environment = Environment({"KEY": "sk-1", "TEAM": "search"})
    value = {"headers": {"X-Team": "${TEAM}", "X-Key": SecretStr("${KEY}")}, "stop": ["$$", 3, None]}
    resolved = environment.value(value, ("params",))
    assert resolved == {"headers": {"X-Team": "search", "X-Key": SecretStr("sk-1")}, "stop": ["$", 3, None]}
    assert environment.mistakes == []


def test_an_environment_remembers_where_each_unset_variable_stands():
    """The mistakes of a whole spec come together, each with path, file and line."""
    environment = Environment({}, LocationMap({("a", "key"): Location("spec.yaml", 7)}))
    environment.text("${ONE}", ("a", "key"))
    environment.value({"x": ["${TWO}"]}, ("b",))
    assert [str(mistake) for mistake in environment.mistakes] == [
        "spec.yaml:7 a.key: the variable ONE is not set",
        "b.x[0]: the variable TWO is not set",
    ]
