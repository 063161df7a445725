"""Files answered row by row: what stands in the target, and what becomes of it when something ends too early."""

from __future__ import annotations

import asyncio
import csv
import json
import os
import signal
from collections import Counter

import pytest
from pydantic import BaseModel

from llm_fallback import build_chat_model
from llm_fallback.chat_model.batch.survey import BatchRequest
from llm_fallback.errors import BatchRefused
from llm_fallback.events import BreakerOpened, CallEnded
from llm_fallback.testing import Fail, FakeServer, Reply, fake_chat_model

BOTH = pytest.mark.parametrize("mode", ["batch_file", "abatch_file"])
PRICED = {"input_per_million": 1, "output_per_million": 1}


class City(BaseModel):
    """A city."""

    name: str
    people: int


@pytest.fixture
def files(tmp_path):
    return Files(tmp_path)


class Files:
    """A source of ten questions, and a target."""

    def __init__(self, folder):
        self.folder = folder
        self.source, self.target = folder / "questions.jsonl", folder / "answers.jsonl"
        self.write([{"id": f"q{number}", "prompt": f"question {number}"} for number in range(10)])

    def write(self, rows):
        self.source.write_text("".join(json.dumps(row) + "\n" for row in rows))

    def answers(self, path=None):
        """The target's rows in the source's order; each stands there once."""
        rows = [json.loads(line) for line in (path or self.target).read_text().splitlines()]
        assert len({row["row"] for row in rows}) == len(rows)
        return sorted(rows, key=lambda row: row["row"])


def spec_of(*names, **chain):
    """A chain over deployments without sockets."""
    return {
        "deployments": {
            name: {"backend": "vllm", "model": name, "api_base": "http://gpu", "price": PRICED} for name in names
        },
        "chains": {"main": {"tiers": list(names), **chain}},
    }


async def answered(model, mode, source, target, **words):
    ask = getattr(model, mode)
    return await ask(source, target, **words) if mode == "abatch_file" else ask(source, target, **words)


def asked(model):
    """How often each question was sent."""
    return Counter(request.body["messages"][-1]["content"] for request in model.received())


# What stands in the target.


@BOTH
async def test_each_row_stands_in_the_target_with_its_answer_and_the_facts(files, mode):
    """Its own fields, its number, the text, and who gave it at what cost."""
    model = fake_chat_model({"a": None}, spec=spec_of("a"))
    result = await answered(model, mode, files.source, files.target)
    rows = files.answers()
    assert [list(row) for row in rows] == [["id", "prompt", "row", "answer", "llm_fallback"]] * 10
    assert [(row["id"], row["row"], row["answer"]) for row in rows] == [
        (f"q{number}", number, f"A fake answer to: question {number}") for number in range(10)
    ]
    assert {row["llm_fallback"]["deployment"] for row in rows} == {"a"}
    cost = result.pop("cost_usd")
    assert cost == pytest.approx(sum(row["llm_fallback"]["cost_usd"] for row in rows))
    assert result == {"rows": 10, "answered": 10, "failed": 0, "seconds": 0.0, "complete": True}


@BOTH
async def test_a_row_that_fails_stands_there_with_its_failure(files, mode):
    """Word and message; its answer is null, and the facts name every attempt."""
    script = [Fail("bad_request") if number in (3, 4) else "fine" for number in range(10)]
    model = fake_chat_model({"a": script}, spec=spec_of("a"))
    result = await answered(model, mode, files.source, files.target, concurrency=1)
    assert (result["answered"], result["failed"], result["complete"]) == (8, 2, True)
    failed = [row for row in files.answers() if row["answer"] is None]
    assert [row["row"] for row in failed] == [3, 4]
    for row in failed:
        assert row["error"]["failure"] == "bad_request"
        assert "a: bad_request (400)" in row["error"]["message"]
        assert [attempt["failure"] for attempt in row["llm_fallback"]["attempts"]] == ["bad_request"]
    assert all("error" not in row for row in files.answers() if row["answer"] is not None)


async def test_messages_are_asked_as_they_are(files):
    """OpenAI's objects, or LangChain's pairs."""
    system = {"role": "system", "content": "be brief"}
    files.write([{"messages": [system, {"role": "user", "content": "hi"}]}, {"messages": [["human", "ho"]]}])
    model = fake_chat_model({"a": None})
    await model.abatch_file(files.source, files.target)
    sent = sorted((request.body["messages"] for request in model.received()), key=len)
    assert sent == [[{"role": "user", "content": "ho"}], [system, {"role": "user", "content": "hi"}]]


async def test_another_column_is_asked_if_it_is_named(files):
    """Of a table too, where messages are JSON."""
    source = files.folder / "a.csv"
    source.write_text('text,messages\nhi,"[[""human"", ""ho""]]"\n')
    model = fake_chat_model({"a": None})
    await model.abatch_file(source, files.target, prompt="text")
    await model.abatch_file(source, files.folder / "b.jsonl")
    assert asked(model) == {"hi": 1, "ho": 1}


@pytest.mark.parametrize(
    ("row", "told"),
    [
        ({"prompt": None}, "'prompt' is empty"),
        ({"prompt": " "}, "'prompt' is neither a text nor a list of messages"),
        ({"prompt": 7}, "'prompt' is neither a text nor a list of messages"),
        ({"messages": [{"role": "nobody", "content": "hi"}]}, "its messages are none of LangChain's or OpenAI's"),
    ],
)
async def test_a_row_that_asks_nothing_fails_and_nothing_is_sent_for_it(files, row, told):
    """The others are answered."""
    files.write([{"prompt": "hi"}, row])
    model = fake_chat_model({"a": None})
    result = await model.abatch_file(files.source, files.target)
    assert (result["answered"], result["failed"]) == (1, 1)
    error = files.answers()[1]["error"]
    assert error["failure"] == "bad_request"
    assert told in error["message"]
    assert len(model.received()) == 1


@pytest.mark.parametrize("schema", [None, City])
@pytest.mark.parametrize("kind", ["real", "fake"])
@pytest.mark.parametrize(
    "message",
    [
        {"role": "assistant", "content": "x", "tool_calls": ["x"]},
        {"role": "user", "content": [{"type": {"a": 1}}]},
        {"role": "user", "content": [{"type": "audio", "base64": "UklGRg=="}]},
        {"role": "user", "content": [{"type": "file", "source_type": "base64"}]},
        {"role": "user", "content": [{"type": "video", "url": "https://a/b.mp4"}]},
    ],
)
async def test_a_row_with_messages_that_cannot_be_written_fails_alone(files, kind, message, schema):
    """LangChain raises what it likes over them; the rows after it are answered."""
    files.write([{"prompt": "hi"}, {"messages": [message]}, {"prompt": "ho"}])
    with FakeServer({"a": None}) as server:
        model = build_chat_model(server.spec()) if kind == "real" else fake_chat_model({"a": None})
        result = await model.abatch_file(files.source, files.target, concurrency=1, schema=schema)
    assert (result["answered"], result["failed"], result["complete"]) == (2, 1, True)
    row = files.answers()[1]
    assert (row["answer"], row["error"]["failure"]) == (None, "bad_request")
    assert row["error"]["message"].startswith("its messages ")


async def test_answers_of_a_form_are_objects_and_a_reply_that_is_none_falls_back(files):
    """Like any structured output: the next deployment is asked with the same request."""
    good = Reply('{"name": "Paris", "people": 2000000}')
    model = fake_chat_model({"a": "no idea", "b": good}, spec=spec_of("a", "b"))
    result = await model.abatch_file(files.source, files.target, schema=City)
    assert (result["answered"], result["failed"]) == (10, 0)
    for row in files.answers():
        assert row["answer"] == {"name": "Paris", "people": 2000000}
        assert [attempt["failure"] for attempt in row["llm_fallback"]["attempts"]] == ["rejected", None]


async def test_a_row_nobody_has_a_form_for_fails(files):
    """As `rejected`, with what is wrong."""
    model = fake_chat_model({"a": "no idea"})
    result = await model.abatch_file(files.source, files.target, schema=City)
    assert result["failed"] == 10
    assert {row["error"]["failure"] for row in files.answers()} == {"rejected"}


@BOTH
async def test_an_answer_that_json_cannot_hold_is_no_answer(files, mode):
    """Python reads NaN as a number; written into the target, it would make a line that nobody reads again."""
    schema = {"title": "Share", "description": "A share.", "type": "object", "properties": {"of": {"type": "number"}}}
    model = fake_chat_model({"a": Reply('{"of": NaN}', usage=(1, 1))}, spec=spec_of("a"))
    for _ in range(2):
        result = getattr(model, mode)(files.source, files.target, schema=schema)
        result = await result if mode == "abatch_file" else result
        assert (result["answered"], result["failed"]) == (0, 10)
    assert {row["error"]["failure"] for row in files.answers()} == {"rejected"}
    assert {row["llm_fallback"]["cost_usd"] is None for row in files.answers()} == {False}


@BOTH
async def test_half_a_character_stands_in_the_target_as_json_s_escape(files, mode):
    """Every reader takes it, and the batch goes on."""
    files.source.write_text('{"prompt": "x", "note": "\\ud83d \u00e9"}\n')
    model = fake_chat_model({"a": "fine"})
    for _ in range(2):
        result = getattr(model, mode)(files.source, files.target)
        result = await result if mode == "abatch_file" else result
        assert result["answered"] == 1
    (row,) = files.answers()
    assert row["note"] == "\ud83d \u00e9"


async def test_another_chain_and_words_of_the_call_are_heeded(files):
    """As in `invoke`."""
    spec = spec_of("a", "b")
    spec["chains"] = {"main": {"tiers": ["a"]}, "other": {"tiers": ["b"]}}
    model = fake_chat_model({}, spec={**spec, "default_chain": "main"})
    await model.abatch_file(files.source, files.target, chain="other", temperature=0.5)
    assert {(request.deployment, request.body["temperature"]) for request in model.received()} == {("b", 0.5)}
    with pytest.raises(ValueError, match="did you mean 'other'"):
        await model.abatch_file(files.source, files.target, chain="othr")


def test_it_works_where_an_event_loop_runs_already(files):
    """As in a notebook."""
    model = fake_chat_model({"a": None})

    async def cell():
        return model.batch_file(files.source, files.target)

    assert asyncio.run(cell())["answered"] == 10


@pytest.mark.parametrize("concurrency", [0, -1, True, 1.5, "many"])
def test_a_concurrency_that_is_none_is_refused(files, concurrency):
    """It is a number or 'auto'."""
    with pytest.raises(ValueError, match="concurrency must be 'auto' or a whole number from 1"):
        fake_chat_model({"a": None}).batch_file(files.source, files.target, concurrency=concurrency)


# Going on.


@BOTH
async def test_only_what_has_no_answer_yet_is_asked(files, mode):
    """After a kill, say; what it cut short is asked again."""
    whole = fake_chat_model({"a": None})
    whole.batch_file(files.source, files.target)
    lines = files.target.read_bytes().splitlines(keepends=True)
    files.target.write_bytes(b"".join([*lines[5:], lines[0], lines[3][:-20]]))
    there = {json.loads(line)["row"] for line in (*lines[5:], lines[0])}
    model = fake_chat_model({"a": None})
    result = await answered(model, mode, files.source, files.target)
    assert (result["answered"], result["complete"]) == (10, True)
    assert asked(model) == {f"question {number}": 1 for number in range(10) if number not in there}
    assert [row["row"] for row in files.answers()] == list(range(10))


@pytest.mark.parametrize("suffix", [".jsonl", ".csv", ".parquet"])
async def test_a_finished_job_that_is_run_again_does_nothing(files, suffix):
    """Its target stays as it is, to the byte, and the same is told of it."""
    if suffix == ".parquet":
        pytest.importorskip("pyarrow")
    target = files.folder / f"answers{suffix}"
    first = await fake_chat_model({"a": None}).abatch_file(files.source, target)
    before = target.read_bytes(), sorted(os.listdir(files.folder))
    model = fake_chat_model({"a": None})
    again = await model.abatch_file(files.source, target)
    assert model.received() == []
    assert {**again, "seconds": 0} == {**first, "seconds": 0}
    assert (target.read_bytes(), sorted(os.listdir(files.folder))) == before


@pytest.mark.parametrize("suffix", [".jsonl", ".csv", ".parquet"])
async def test_rows_that_failed_stay_unless_they_are_to_be_asked_again(files, suffix):
    """Then only they are, and each row stands there once."""
    if suffix == ".parquet":
        pytest.importorskip("pyarrow")
    target = files.folder / f"answers{suffix}"
    script = [Fail("bad_request") if number in (3, 4) else "fine" for number in range(10)]
    await fake_chat_model({"a": script}).abatch_file(files.source, target, concurrency=1)
    model = fake_chat_model({"a": "better"})
    assert (await model.abatch_file(files.source, target))["failed"] == 2
    assert model.received() == []
    result = await model.abatch_file(files.source, target, retry_failed=True)
    assert (result["answered"], result["failed"], result["complete"]) == (10, 0, True)
    assert asked(model) == {"question 3": 1, "question 4": 1}
    if suffix == ".jsonl":
        assert Counter(row["answer"] for row in files.answers(target)) == {"fine": 8, "better": 2}


async def test_without_resume_the_target_is_begun_anew(files):
    """Whatever stood there."""
    files.target.write_text('{"not": "ours"}\n')
    result = await fake_chat_model({"a": None}).abatch_file(files.source, files.target, resume=False)
    assert (result["answered"], len(files.answers())) == (10, 10)


def refused_text(files, model, target=None, **words):
    """Why a batch is refused; nothing is sent, and the target stays as it is."""
    target = target or files.target
    before = target.read_bytes() if target.exists() else None
    with pytest.raises(BatchRefused) as refused:
        model.batch_file(files.source, target, **words)
    assert model.received() == []
    assert (target.read_bytes() if target.exists() else b"") == (before or b"")
    return str(refused.value).replace(f"{files.folder}/", "")


def test_a_source_that_is_its_own_target_is_refused(files):
    """By whichever name."""
    model = fake_chat_model({"a": None})
    assert refused_text(files, model, files.source) == "questions.jsonl: is source and target; name another target"
    os.link(files.source, files.target)
    assert "is source and target" in refused_text(files, model)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (
            lambda rows: [*rows[:4], {**rows[4], "prompt": "another"}, *rows[5:]],
            "questions.jsonl:5: row 4 is not the one that was answered in answers.jsonl: the source has changed",
        ),
        (lambda rows: rows[1:], "questions.jsonl:1: row 0 is not the one that was answered"),
        (lambda rows: rows[:8], "answers.jsonl: has row 9, and questions.jsonl has only 8 rows"),
        (
            lambda rows: [{**row, "more": 1} for row in rows],
            "questions.jsonl:1: row 0 is not the one that was answered",
        ),
    ],
)
def test_a_source_that_has_changed_is_refused(files, change, told):
    """With the first row that is another one."""
    fake_chat_model({"a": None}).batch_file(files.source, files.target)
    files.write(change([json.loads(line) for line in files.source.read_text().splitlines()]))
    assert refused_text(files, fake_chat_model({"a": None})).startswith(told)


def test_a_source_that_has_grown_is_gone_on_with(files):
    """What was answered stands; the new rows are asked."""
    fake_chat_model({"a": None}).batch_file(files.source, files.target)
    with files.source.open("a") as source:
        source.write('{"id": "q10", "prompt": "question 10"}\n')
    model = fake_chat_model({"a": None})
    assert model.batch_file(files.source, files.target)["answered"] == 11
    assert asked(model) == {"question 10": 1}


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ('{"not": "ours"}\n', "answers.jsonl:1: is no row of a batch's; name another target, or move this one away"),
        ("hello\n", "answers.jsonl:1: is no JSON"),
        ('{"row": -1, "llm_fallback": {}}\n', "answers.jsonl:1: is no row of a batch's"),
        ('{"row": true, "llm_fallback": {}}\n', "answers.jsonl:1: is no row of a batch's"),
    ],
)
def test_a_target_that_is_something_else_is_refused(files, content, told):
    """Nobody's file is written over."""
    files.target.write_text(content)
    assert refused_text(files, fake_chat_model({"a": None})).startswith(told)


def test_a_target_with_a_row_twice_is_refused(files):
    """Which of the two is the answer nobody can say."""
    fake_chat_model({"a": None}).batch_file(files.source, files.target)
    lines = files.target.read_text().splitlines(keepends=True)
    files.target.write_text("".join([*lines, lines[2]]))
    assert "row 2 stands here a second time" in refused_text(files, fake_chat_model({"a": None}))


@pytest.mark.parametrize("column", ["row", "answer", "error", "llm_fallback"])
def test_a_source_with_a_column_that_the_answer_adds_is_refused(files, column):
    """One would be written over the other."""
    files.write([{"prompt": "hi"}, {"prompt": "ho", column: 1}])
    told = f"questions.jsonl:2: has a column {column!r}, which the answer adds; give it another name"
    assert refused_text(files, fake_chat_model({"a": None})) == told


@pytest.mark.parametrize(
    ("row", "prompt", "told"),
    [
        ({"text": "hi"}, None, "has neither 'prompt' nor 'messages'; name a column, of 'text'"),
        ({"question": "hi"}, "questoin", "has no 'questoin'; did you mean 'question'?"),
        ({"x": "hi"}, "question", "has no 'question'; its columns are 'x'"),
    ],
)
def test_a_source_without_the_column_is_refused(files, row, prompt, told):
    """With the nearest."""
    files.write([row])
    assert refused_text(files, fake_chat_model({"a": None}), prompt=prompt) == f"questions.jsonl:1: {told}"


def test_a_source_that_is_not_there_is_an_error_that_names_it(files):
    """And leaves no target behind that was not there before."""
    with pytest.raises(FileNotFoundError, match=r"nowhere\.jsonl"):
        fake_chat_model({"a": None}).batch_file(files.folder / "nowhere.jsonl", files.target)
    assert not files.target.exists()


async def test_a_second_batch_into_the_same_target_is_refused(files):
    """While the first runs; that one goes on."""
    model = fake_chat_model({"a": Reply("fine", delay_s=1)})
    first = asyncio.create_task(model.abatch_file(files.source, files.target))
    while not model.received():
        await asyncio.sleep(0)
    with pytest.raises(BatchRefused, match="another batch is writing it"):
        await model.abatch_file(files.source, files.target)
    assert (await first)["complete"]


# Tables.


async def test_a_table_is_there_when_all_of_it_is_in_the_order_of_its_source(files):
    """Until then there is its journal, by which an interrupted job goes on."""
    target = files.folder / "answers.csv"
    job_model = fake_chat_model({"a": Reply("fine", delay_s=1)})
    first = asyncio.create_task(job_model.abatch_file(files.source, target, concurrency=4))
    journal = files.folder / "answers.csv.partial.jsonl"
    while not (journal.exists() and len(journal.read_bytes().splitlines()) >= 4):
        await asyncio.sleep(0)
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    assert not target.exists()
    model = fake_chat_model({"a": "fine"})
    assert (await model.abatch_file(files.source, target))["complete"]
    assert len(model.received()) == 6
    with target.open(newline="") as lines:
        rows = list(csv.DictReader(lines))
    assert [row["id"] for row in rows] == [f"q{number}" for number in range(10)]
    assert {row["answer"] for row in rows} == {"fine"}
    assert json.loads(rows[0]["llm_fallback"])["deployment"] == "a"
    assert rows[0]["error"] == ""
    assert not journal.exists()


# Ending early.


async def test_a_budget_stops_it_cleanly_and_it_goes_on_when_there_is_money(files):
    """The rows under way are written, the one that would go over is asked another day."""
    spec = spec_of("a", budget={"usd_per_day": 0.001})
    model = fake_chat_model({"a": Reply("fine", usage=(100, 100))}, spec=spec, max_tokens=100)
    job = await model.abatch_file(files.source, files.target, concurrency=1)
    assert not job["complete"]
    assert (job["answered"], job["failed"]) == (5, 0)
    again = await model.abatch_file(files.source, files.target, concurrency=1)
    assert again["answered"] == 5
    model.clock.advance(86_400)
    last = await model.abatch_file(files.source, files.target, concurrency=1)
    assert (last["answered"], last["complete"]) == (10, True)
    assert set(asked(model).values()) == {1}


async def test_a_budget_of_each_call_is_a_failure_of_its_row(files):
    """The next row has it anew."""
    files.write([{"prompt": "x" * 40_000}, {"prompt": "hi"}])
    spec = spec_of("a", budget={"usd_per_call": 0.005})
    model = fake_chat_model({"a": None}, spec=spec, max_tokens=100)
    result = await model.abatch_file(files.source, files.target)
    assert (result["answered"], result["failed"], result["complete"]) == (1, 1, True)
    assert files.answers()[0]["error"]["failure"] == "budget"


async def test_cancelled_it_leaves_at_once_and_goes_on_later(files):
    """What was under way is dropped, and is the only thing that is asked again."""
    model = fake_chat_model({"a": Reply("fine", delay_s=5)})
    task = asyncio.create_task(model.abatch_file(files.source, files.target, concurrency=3))
    while len(model.received()) < 5:
        await asyncio.sleep(0)
    began = model.clock.now()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert model.clock.now() == began
    written = len(files.answers())
    assert (await model.abatch_file(files.source, files.target))["complete"]
    assert sum(asked(model).values()) - 10 <= 3
    assert 10 - written >= sum(asked(model).values()) - 5


def interrupting(model, *at):
    """Raise SIGINT when so many calls have ended."""
    ended = []

    def listen(event):
        if isinstance(event, CallEnded):
            ended.append(event)
            if len(ended) in at:
                signal.raise_signal(signal.SIGINT)

    return model.model_copy(update={"listeners": (listen,)}), ended


def test_ctrl_c_once_finishes_what_is_under_way(files):
    """KeyboardInterrupt comes when it is written; no row is started after it."""
    model, ended = interrupting(fake_chat_model({"a": Reply("fine", delay_s=1)}), 2)
    with pytest.raises(KeyboardInterrupt):
        model.batch_file(files.source, files.target, concurrency=4)
    assert {event.failure for event in ended} == {None}
    assert len(files.answers()) == len(model.received()) == len(ended) < 10
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert model.batch_file(files.source, files.target)["complete"]
    assert set(asked(model).values()) == {1}


def test_ctrl_c_twice_leaves_at_once(files):
    """What is under way is dropped, and asked again when the job goes on."""
    model, _ = interrupting(fake_chat_model({"a": Reply("fine", delay_s=1)}), 2, 3)
    with pytest.raises(KeyboardInterrupt):
        model.batch_file(files.source, files.target, concurrency=6)
    assert len(files.answers()) <= 3
    model = fake_chat_model({"a": None})
    assert model.batch_file(files.source, files.target)["complete"]


async def test_an_error_that_is_no_row_s_ends_it_with_what_was_answered_written(files):
    """A handler's own, say: every row would meet it."""
    from langchain_core.callbacks import BaseCallbackHandler

    class Broken(BaseCallbackHandler):
        raise_error = True
        calls = 0

        def on_chat_model_start(self, *args, **kwargs):
            self.calls += 1
            if self.calls == 5:
                raise ZeroDivisionError("broken")

    model = fake_chat_model({"a": None})
    with pytest.raises(ZeroDivisionError):
        await model.abatch_file(files.source, files.target, concurrency=1, config={"callbacks": [Broken()]})
    assert len(files.answers()) == 4


# How many are under way.


async def most_in_flight(model, files, **words):
    """How many rows were under way at most."""
    seen = []
    request = BatchRequest(files.source, files.target, **words)
    await model.batch_job(request, on_progress=lambda tally: seen.append(tally.in_flight)).run()
    return max(seen)


@pytest.mark.parametrize("concurrency", [1, 5])
async def test_as_many_rows_are_under_way_as_was_said(files, concurrency):
    """And no more."""
    model = fake_chat_model({"a": Reply("fine", delay_s=1)})
    assert await most_in_flight(model, files, concurrency=concurrency) == concurrency


async def test_what_the_first_tier_has_no_room_for_waits_and_goes_to_nobody_else(files):
    """A fallback is for failures; its price is another one."""
    spec = spec_of("cheap", "dear")
    spec["deployments"]["cheap"]["limits"] = {"max_parallel": 2}
    model = fake_chat_model({"cheap": Reply("fine", delay_s=1), "dear": "fine"}, spec=spec)
    assert await most_in_flight(model, files) == 2
    assert {row["llm_fallback"]["deployment"] for row in files.answers()} == {"cheap"}


async def test_once_the_first_tier_is_out_the_next_one_answers(files):
    """With nothing lost."""
    model = fake_chat_model({"cheap": Fail(500), "dear": "fine"}, spec=spec_of("cheap", "dear"))
    result = await model.abatch_file(files.source, files.target)
    assert (result["answered"], result["failed"]) == (10, 0)
    assert {row["llm_fallback"]["deployment"] for row in files.answers()} == {"dear"}


async def test_an_outage_is_not_the_end_of_all_rows(files):
    """While nobody answers, rows go one at a time and further and further apart: half a minute costs some twenty of a
    thousand, not all of them."""
    files.write([{"prompt": f"question {number}"} for number in range(200)])
    model = fake_chat_model({"a": Fail(500)}, spec=spec_of("a", retries={"max": 0}))
    model.listeners = (lambda event: model.script("a", "fine") if model.clock.now() > 30 else None,)
    result = await model.abatch_file(files.source, files.target)
    assert result["complete"]
    assert 10 < result["failed"] < 40


async def test_a_429_opens_no_breaker_and_the_limit_is_gone_when_the_batch_is(files):
    """With one in ten requests refused, nobody is left alone for half a minute."""
    files.write([{"prompt": f"question {number}"} for number in range(200)])
    script = [Fail(429) if number % 10 == 5 else "fine" for number in range(400)]
    model, opened = fake_chat_model({"a": script}), []
    model.listeners = (lambda event: opened.append(event) if isinstance(event, BreakerOpened) else None,)
    result = await model.abatch_file(files.source, files.target)
    assert (result["answered"], result["failed"], opened) == (200, 0, [])
    assert model.state()["a"]["max_parallel"] is None


async def test_a_row_that_was_only_one_too_many_is_asked_again(files):
    """Its call has no repeats left, but others are answered: it is not the row that fails."""
    files.write([{"prompt": f"question {number}"} for number in range(100)])
    script = [Fail(429) if number % 20 == 10 else "fine" for number in range(200)]
    model = fake_chat_model({"a": script}, max_retries=0)
    assert (await model.abatch_file(files.source, files.target))["failed"] == 0


async def test_a_server_that_answers_nobody_is_not_asked_for_ever(files):
    """Rows fail as `rate_limited`, each with the requests of one call."""
    model = fake_chat_model({"a": Fail(429)}, max_retries=0)
    result = await model.abatch_file(files.source, files.target)
    assert (result["failed"], len(model.received())) == (10, 10)
    assert {row["error"]["failure"] for row in files.answers()} == {"rate_limited"}


async def test_a_declared_number_of_parallel_requests_is_kept(files):
    """`auto` finds one only where there is none."""
    spec = spec_of("a")
    spec["deployments"]["a"]["limits"] = {"max_parallel": 3}
    model = fake_chat_model({"a": Reply("fine", delay_s=1)}, spec=spec)
    assert await most_in_flight(model, files) == 3


@pytest.mark.parametrize("words", [{"chain": "other"}, {"llm_fallback_chain": "other"}])
def test_an_estimate_is_of_the_chain_that_is_chosen_for_the_batch(files, words):
    """By `configurable`, as the batch itself is sent."""
    spec = spec_of("first", "second")
    spec["chains"] = {"main": {"tiers": ["first"]}, "other": {"tiers": ["second"]}}
    model = fake_chat_model({"first": "fine", "second": "fine"}, spec={**spec, "default_chain": "main"})
    request, config = BatchRequest(files.source, files.target), {"configurable": words}
    assert model.estimate_batch(request)["deployment"] == "first"
    assert model.estimate_batch(request, config)["deployment"] == "second"
    model.batch_file(files.source, files.target, config=config)
    assert {row["llm_fallback"]["deployment"] for row in files.answers()} == {"second"}
