"""What a store answers, as it stands on the wire."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm_fallback.fleet.messages import (
    Claim,
    Grant,
    News,
    Overtaken,
    Request,
    StoreError,
    decode_news,
    decode_response,
    encode_request,
    in_ms,
)
from tests.fuzz.spoiling import ODD, spoilt_document, tries

WHOLE = {"epoch": 7, "members": 2, "evidence": [["m1", 1500, "{}"]], "grants": [[3, 1, "9", {"k": 2}], [0, 0, 1, None]]}


@pytest.mark.parametrize("as_sent", [json.dumps, lambda answer: json.dumps(answer).encode()])
def test_a_response_is_read(as_sent):
    """Times in seconds, and what is empty in whichever way Redis writes it."""
    read = decode_response(as_sent(WHOLE))
    assert (read.epoch, read.members) == ("7", 2)
    assert dict(read.evidence) == {"m1": (1.5, "{}")}
    assert tuple(read.grants) == (Grant(3, 1, 9, {"k": 2}), Grant(0, 0, 1, {}))
    empty = decode_response(as_sent({**WHOLE, "evidence": {}, "grants": None}))
    assert (dict(empty.evidence), tuple(empty.grants)) == ({}, ())


def test_a_request_is_written_as_the_script_in_the_store_reads_it():
    """Times in milliseconds, nothing between the parts."""
    claim = Claim("rpm", 10, 60, ((2, 1.5),), held=1, wanted=5, need=3, fence=4, remembered={"m2": 7})
    request = Request("m1", 8, 7, "e", 1.5, is_active=True, evidence="x", claims=(claim,), is_news=True)
    assert encode_request(request) == (
        '{"member":"m1","number":8,"answered":7,"epoch":"e","lease_ms":1500,"active":true,"is_news":true,'
        '"leaves":false,"evidence":"x","claims":[{"capacity":10,"window_ms":60000,"charges":[[2,1500]],"held":1,'
        '"wanted":5,"need":3,"fence":4,"remembered":[["m2",7]]}]}'
    )


def test_a_store_error_names_what_reading_met():
    """Not what was sent, which may be anything."""
    with pytest.raises(StoreError, match=r"\(AttributeError\)$"):
        decode_response("[]")
    with pytest.raises(StoreError, match=r"\(TypeError\)$"):
        decode_news("5")


def test_who_was_overtaken_is_told():
    """By another process under the same name."""
    with pytest.raises(Overtaken):
        decode_response('{"overtaken": true}')


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "5",
        "{}",
        '{"epoch": 1}',
        "\\xff",
        json.dumps({**WHOLE, "grants": [[1]]}),
        json.dumps({**WHOLE, "members": float("inf")}),
        "[" * 100_000,
    ],
)
def test_what_is_no_response_is_a_store_error(text):
    """Somebody else's key, or another version."""
    with pytest.raises(StoreError, match="it answered what is no answer"):
        decode_response(text)


@pytest.mark.parametrize("text", ["", "[]", "5", "{}", b"\xff", '["m1"]', "[" * 200_000])
def test_what_is_no_news_is_a_store_error(text):
    """Whoever may write to the store can end no task of a member's."""
    assert decode_news('["m1", "{}"]') == News("m1", "{}")
    with pytest.raises(StoreError, match="it sent what is no news"):
        decode_news(text)


@given(spoilt_document([WHOLE]) | st.sampled_from(ODD))
@tries(200)
def test_any_answer_is_a_response_or_an_error_of_ours(document):
    """A store is shared with others."""
    try:
        decode_response(json.dumps(document))
    except (StoreError, Overtaken):
        return


@pytest.mark.parametrize(("seconds", "ms"), [(0, 0), (-5, 0), (0.0004, 0), (0.0006, 1), (1.5, 1500)])
def test_stores_count_in_whole_milliseconds(seconds, ms):
    """And in none before now."""
    assert in_ms(seconds) == ms
