"""Error bodies taken apart, whatever their shape."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm_fallback.engine.protocol.faults import ErrorBody, parse_error, parse_error_body


@pytest.mark.parametrize(
    ("body", "message", "codes"),
    [
        ({"error": {"message": "no", "type": "t", "code": "c"}}, "no", ("c", "t")),
        ({"object": "error", "message": "no", "type": "t", "code": 400}, "no", ("400", "t")),
        ({"error": "no"}, "no", ()),
        ({"detail": "no"}, "no", ()),
        ({"message": "no", "code": "c"}, "no", ("c",)),
        ({"code": "permission-denied", "error": "no"}, "no", ("permission-denied",)),
        (
            {"type": "error", "error": {"type": "overloaded_error", "message": "no"}},
            "no",
            ("error", "overloaded_error"),
        ),
        ({"error": {"message": "no", "innererror": {"code": "deeper"}}}, "no", ("deeper",)),
        ({"error": {"message": "no", "details": [{"reason": "r"}, {"reason": "s"}]}}, "no", ("r", "s")),
        ({"error": {"message": "no", "metadata": {"flagged_input": "..."}}}, "no", ("flagged_input",)),
        ([{"error": {"message": "no", "code": 503}}], '[{"error": {"message": "no", "code": 503}}]', ("503",)),
        ({"detail": [{"msg": "Field required"}]}, '{"detail": [{"msg": "Field required"}]}', ()),
        (None, "null", ()),
    ],
)
def test_message_and_codes_are_found_in_every_shape(body, message, codes):
    """OpenAI's, the flat one, a bare text, Anthropic's, Azure's, Google's, FastAPI's."""
    said = parse_error(body)
    assert (said.message, said.codes) == (message, codes)
    assert parse_error_body(json.dumps(body)) == said


@pytest.mark.parametrize("text", ["Internal Server Error", "", "<html>502</html>", "{half"])
def test_what_is_no_json_is_the_message(text):
    """Plain text and pages."""
    assert parse_error_body(text.encode()) == parse_error_body(text) == ErrorBody(text, text=text)


@pytest.mark.parametrize("depth", [201, 900, 100_000])
def test_a_body_nested_without_end_is_the_message(depth):
    """Whoever parses it to its end runs out of stack, and the caller gets that instead of a backup's answer."""
    text = '{"error":' * depth + "1" + "}" * depth
    assert parse_error_body(text) == ErrorBody(text, text=text)


def test_what_was_written_is_kept_as_it_was():
    """What a parsed one would be written as has no escapes."""
    assert parse_error_body('{"error":{}}').text == '{"error":{}}'
    assert parse_error({"a": "ø"}).text == '{"a": "ø"}'


def test_a_byte_order_mark_is_no_part_of_a_body():
    """A page behind one is a page, and JSON is JSON."""
    assert parse_error_body(b"\xef\xbb\xbf<html>502</html>").is_page
    assert parse_error_body(b'\xef\xbb\xbf{"error": {"message": "no", "code": 7}}').codes == ("7",)


def test_the_status_is_the_number_that_is_one():
    """Codes may be numbers of another kind, as Mistral's 3051."""
    assert parse_error({"error": {"code": "3051", "status": 429}}).status == 429
    assert [parse_error({"error": {"code": code}}).status for code in ("3051", "²", "9" * 5000, True, 200)] == [
        None
    ] * 5


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("Please try again in 20s.", 20),
        ("Please try again in 2.8s", 2.8),
        ("Please try again in 7m12s. Visit", 432),
        ("try again in 1h2m3s", 3723),
        ("Please try again in 150ms.", 0.15),
        ("Please retry after 26 seconds.", 26),
        ("Please retry in 36.429760048s.", 36.429760048),
        ("Try again in 5 minutes", 300),
        ("Try again in 1 min 5 sec", 65),
        ("Try again in 5 seconds. Passed model=m", 5),
        ("Please try again later", None),
        ("retry in 5 messages", None),
        ("Limit 3, Used 3. It resets in 20s", None),
    ],
)
def test_a_time_named_in_words_is_read(text, seconds):
    """Only where somebody is told to try again."""
    assert parse_error_body(text).wait_s == (None if seconds is None else pytest.approx(seconds))


def test_google_s_delay_stands_beside_its_words():
    """And is what it means; the words carry nanoseconds."""
    body = {"error": {"message": "Please retry in 36.4s.", "details": [{"retryDelay": "36s"}]}}
    assert parse_error(body).wait_s == 36


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(st.sampled_from(["error", "message", "code", "detail", "type", "details"]), inner)
        ),
        max_leaves=15,
    )
)
def test_no_body_is_too_odd_to_be_read(body):
    """There is always a message, and no exception."""
    said = parse_error(body)
    assert isinstance(said.message, str)
    assert said.wait_s is None or said.wait_s >= 0
