"""The log of calls: a line for each, nothing said in it, and calls again from what was written."""

from __future__ import annotations

import json
import os
import threading
from dataclasses import replace
from decimal import Decimal

import pytest

from llm_fallback import CallEnded, ChainExhausted, build_chat_model
from llm_fallback.events import Attempt, FellBack, Record, Skip, Stitch, Usage
from llm_fallback.exporters.jsonl import CallLog, read
from llm_fallback.ledger.ledger import Ledger
from llm_fallback.testing import Fail, FakeServer, Reply, fake_chat_model
from tests.asking import ask
from tests.disks import room_for

CANARY = "sk-canary-0123456789abcdef"
SECRET_WORDS = "the launch code is 0000"
FAILED = Attempt("a", "m/a", "failed", "rate_limited", 429, "no", 0.1, None, Decimal(0))
ANSWER = Attempt("b", "m/b", "succeeded", None, 200, None, 0.5, 0.2, Decimal("0.000041"), usage=Usage(5, 4, 3, 2, 1))
RECORD = Record("c", "b", "m/b", True, (FAILED, ANSWER), (Skip("d", "limit", 2.5),), 0.7, 0.4, (Stitch("b", 7),))
CALL = CallEnded(
    "c", RECORD, None, True, 1795000000.125, "run-1", ("web",), {"tenant": "acme", "user": "ann"}, "graph-1"
)


def lines(path):
    """The lines of a log, parsed."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_a_call_is_one_flat_row_with_its_attempts_nested(tmp_path):
    """Columns hold plain values, as a table wants them."""
    with CallLog(tmp_path / "calls.jsonl", metadata=("tenant", "plan")) as log:
        log(CALL)
        log(FellBack("c", "a", "b", "rate_limited"))
    (row,) = lines(tmp_path / "calls.jsonl")
    attempts, skipped, stitches = row.pop("attempts"), row.pop("skipped"), row.pop("stitches")
    assert row == {
        "ended_at": "2026-11-18T11:06:40.125+00:00",
        "chain": "c",
        "deployment": "b",
        "model": "m/b",
        "fell_back": True,
        "failure": None,
        "streamed": True,
        "stitched": True,
        "latency_s": 0.7,
        "time_to_first_token_s": 0.4,
        "cost_usd": 0.000041,
        "cost_estimated": False,
        "input_tokens": 5,
        "output_tokens": 4,
        "cached_tokens": 3,
        "reasoning_tokens": 1,
        "run_id": "run-1",
        "root_run_id": "graph-1",
        "tags": ["web"],
        "metadata_tenant": "acme",
        "metadata_plan": None,
        "attempt_count": 2,
    }
    assert [(attempt["deployment"], attempt["failure"]) for attempt in attempts] == [("a", "rate_limited"), ("b", None)]
    assert skipped == [{"deployment": "d", "reason": "limit", "retry_in_s": 2.5}]
    assert stitches == [{"deployment": "b", "at": 7}]


@pytest.mark.parametrize("mode", ["invoke", "ainvoke"])
@pytest.mark.parametrize("metadata", ["tenant", ["tenant"], ("tenant",)])
async def test_one_key_of_metadata_may_be_a_text_or_a_list_of_one(tmp_path, metadata, mode):
    """The column is the key's, whichever way a call is made."""
    with CallLog(tmp_path / "calls.jsonl", metadata=metadata) as log:
        model = fake_chat_model({"a": "hello"}, listeners=[log])
        await ask(model, mode, config={"metadata": {"tenant": "acme", "t": "nobody's"}})
    (row,) = lines(tmp_path / "calls.jsonl")
    assert {name: value for name, value in row.items() if name.startswith("metadata")} == {"metadata_tenant": "acme"}


@pytest.mark.parametrize("metadata", [5, None, [1], b"tenant", ""], ids=repr)
def test_what_is_no_key_of_metadata_is_refused_before_a_file_is_made(tmp_path, metadata):
    """The error names the argument."""
    with pytest.raises(ValueError, match=r"metadata must name keys of .*, got "):
        CallLog(tmp_path / "calls.jsonl", metadata=metadata)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("record", [RECORD, replace(RECORD, attempts=(replace(ANSWER, usage=None),), stitches=())])
def test_a_record_is_read_back_from_a_replys_metadata(record):
    """But for usage, which stands in a log only."""
    unsaid = replace(record, attempts=tuple(replace(attempt, usage=None) for attempt in record.attempts))
    assert Record.from_metadata(json.loads(json.dumps(record.as_metadata()))) == unsaid


def test_pandas_reads_it_as_a_table(tmp_path):
    """A row for each call, also for one without an answer; `ended_at` is a time, costs can be summed by column."""
    import pandas

    failed = replace(RECORD, deployment=None, model=None, fell_back=False, attempts=(FAILED,))
    with CallLog(tmp_path / "calls.jsonl", metadata=("tenant",)) as log:
        log(CALL)
        log(replace(CALL, metadata={"tenant": "umbrella"}))
        log(replace(CALL, record=failed, failure="budget", metadata={}))
    table = pandas.read_json(tmp_path / "calls.jsonl", lines=True)
    assert table.ended_at.dt.year.tolist() == [2026] * 3
    assert table.groupby("metadata_tenant").cost_usd.sum().to_dict() == {"acme": 0.000041, "umbrella": 0.000041}
    assert table.failure.fillna("answered").tolist() == ["answered", "answered", "budget"]
    assert table.explode("attempts").attempts.str["deployment"].tolist() == ["a", "b", "a", "b", "a"]


def test_what_was_written_is_read_again(tmp_path):
    """But for what servers said, and for metadata that was not asked for."""
    with CallLog(tmp_path / "calls.jsonl", metadata=("tenant",)) as log:
        log(CALL)
    unsaid = replace(RECORD, attempts=(replace(FAILED, message=None), ANSWER))
    assert list(read(tmp_path / "calls.jsonl")) == [replace(CALL, record=unsaid, metadata={"tenant": "acme"})]


def test_how_long_a_reader_paused_is_kept(tmp_path):
    """Or a deployment would be slower in counts made from the log."""
    slowly_read = replace(ANSWER, paused_s=0.25)
    with CallLog(tmp_path / "calls.jsonl") as log:
        log(replace(CALL, record=replace(RECORD, attempts=(FAILED, slowly_read))))
    [call] = read(tmp_path / "calls.jsonl")
    assert [attempt.paused_s for attempt in call.record.attempts] == [0.0, 0.25]


@pytest.mark.parametrize("line", ["{", "[]", "null", "7", '{"chain": "c"}', '{"attempts": [1]}', "\x00\x00"])
def test_a_line_that_is_none_is_told_and_the_rest_is_read(tmp_path, line):
    """A disk was full, a process was killed."""
    path = tmp_path / "calls.jsonl"
    path.write_text(line + "\n", encoding="utf-8")
    with CallLog(path) as log:
        log(CALL)
    broken, whole = read(path)
    assert (broken, whole.record.chain) == (None, "c")


@pytest.mark.parametrize("room", [0, 1, 40])
def test_a_call_that_a_full_disk_cut_short_is_told_and_spoils_no_other(tmp_path, room):
    """Neither for who wrote it nor for another process with the same log."""
    path = tmp_path / "calls.jsonl"
    with CallLog(path) as log, CallLog(path) as other:
        for next_one in (log, other):
            log(CALL)
            with room_for(path.stat().st_size + room), pytest.raises(OSError, match=r"disk is full|File too large"):
                log(CALL)
            next_one(CALL)
            log(CALL)
    lost = [None] if room else []
    assert [call and call.chain for call in read(path)] == 2 * ["c", *lost, "c", "c"]
    assert b"\n\n" not in path.read_bytes()


def test_a_log_that_a_killed_process_left_in_the_middle_of_a_line_is_gone_on_with(tmp_path):
    """On a line of its own."""
    path = tmp_path / "calls.jsonl"
    path.write_bytes(b'{"chain": "c')
    with CallLog(path) as log:
        log(CALL)
    assert [call and call.chain for call in read(path)] == [None, "c"]


def test_a_log_may_be_a_pipe(tmp_path):
    """Nobody looks for its end."""
    reader, writer = os.pipe()
    with CallLog(f"/dev/fd/{writer}") as log:
        log(CALL)
        log(CALL)
    os.close(writer)
    with open(reader, encoding="utf-8") as lines:
        assert [json.loads(line)["chain"] for line in lines] == ["c", "c"]


def test_words_of_a_later_version_do_no_harm(tmp_path):
    """Unknown columns and kinds of tokens are passed over."""
    path = tmp_path / "calls.jsonl"
    with CallLog(path) as log:
        log(CALL)
    (row,) = lines(path)
    row["colour"] = row["attempts"][1]["usage"]["video_tokens"] = row["attempts"][1]["mood"] = 3
    path.write_text(json.dumps(row) + "\n", encoding="utf-8")
    (call,) = read(path)
    assert call.record.attempts[1] == ANSWER


def test_no_message_and_no_key_is_in_it(tmp_path):
    """Neither prompt nor answer nor what a server quoted; nor metadata nobody named."""
    echo = Fail(400, body={"error": {"message": f"bad: {SECRET_WORDS} {CANARY}"}})
    with FakeServer({"a": echo, "b": Reply(SECRET_WORDS)}) as server, CallLog(tmp_path / "calls.jsonl") as log:
        spec = server.spec(deployments={"a": {"api_key": CANARY}})
        with build_chat_model(spec, listeners=[log]) as model:
            model.invoke(SECRET_WORDS, {"metadata": {"note": SECRET_WORDS}})
            list(model.stream(SECRET_WORDS))
    written = (tmp_path / "calls.jsonl").read_text(encoding="utf-8")
    assert len(written.splitlines()) == 2
    assert SECRET_WORDS not in written
    assert CANARY not in written


def test_every_end_of_a_call_is_logged_and_books_kept_from_the_log_are_the_same(tmp_path):
    """Answered, fallen back, failed, left: the log loses nothing a ledger counts."""
    path, ledger, later = tmp_path / "calls.jsonl", Ledger(), Ledger()
    steps = [Reply("one"), Fail(500), Fail(500)]
    with FakeServer({"a": steps, "b": [Reply("two"), Fail(500)]}) as server, CallLog(path) as log:
        with build_chat_model(server.spec(), listeners=[ledger, log], max_retries=0) as model:
            model.invoke("x")
            model.invoke("x")
            with pytest.raises(ChainExhausted):
                model.invoke("x")
            chunks = model.stream("x")
            next(chunks)
            chunks.close()
    for call in read(path):
        later(call)
    kept, read_again = ledger.snapshot().total, later.snapshot().total
    assert [row["failure"] for row in lines(path)] == [None, None, "server_error", "cancelled"]
    assert (read_again.calls, read_again.unanswered, read_again.failures, read_again.tokens, read_again.cost_usd) == (
        *(kept.calls, kept.unanswered, kept.failures, kept.tokens, kept.cost_usd),
    )


def test_threads_write_whole_lines(tmp_path):
    """However many write at once."""
    with CallLog(tmp_path / "calls.jsonl") as log:
        workers = [threading.Thread(target=lambda: [log(CALL) for _ in range(200)]) for _ in range(8)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
    assert len(lines(tmp_path / "calls.jsonl")) == 1600


def test_a_line_is_there_as_soon_as_the_call_ended(tmp_path):
    """Nothing waits in a buffer; a second log goes on where the first stopped."""
    path = tmp_path / "calls.jsonl"
    with CallLog(path) as log:
        log(CALL)
        assert len(lines(path)) == 1
        with CallLog(path) as other:
            other(CALL)
        log(CALL)
    assert len(lines(path)) == 3
