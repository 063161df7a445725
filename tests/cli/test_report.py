"""`llm-fallback report`: tables on stdout, and a page that needs nothing else."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from dataclasses import replace
from decimal import Decimal
from html.parser import HTMLParser

import pytest

from llm_fallback.events import Attempt, CallEnded, Record, Usage
from llm_fallback.exporters.jsonl import CallLog

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
VOID = {"meta", "link", "br", "hr", "img", "input"}
NASTY = "</script><script>alert(1)</script>"


def call(number, *, chain="assistant", primary_fails=False):
    """The call of that number, a minute after the one before."""
    name = "backup" if primary_fails else "primary"
    attempts = [
        Attempt(name, f"m/{name}", "succeeded", None, 200, None, 0.8, 0.2, Decimal("0.002"), usage=Usage(10, 6))
    ]
    if primary_fails:
        attempts.insert(0, Attempt("primary", "m/primary", "failed", "rate_limited", 429, None, 0.1, None, Decimal(0)))
    record = Record(chain, name, f"m/{name}", primary_fails, tuple(attempts), (), 0.9, 0.3)
    return CallEnded(chain, record, None, True, 1795000000 + 60 * number)


def left(number):
    """A call whose caller left."""
    return CallEnded(
        "assistant",
        Record("assistant", None, None, False, (), (), 0.1, None),
        "cancelled",
        True,
        1795000000 + 60 * number,
    )


@pytest.fixture
def log(here):
    """A log of 20 answered calls, five of them by the fallback, and one that was left."""
    with CallLog(here / "calls.jsonl") as log:
        for number in range(20):
            log(call(number, primary_fails=number % 4 == 3))
        log(left(20))
    return here / "calls.jsonl"


def test_tables_tell_who_answered_how_fast_and_at_what_cost(run, log):
    """A line for the whole, for each chain, for each deployment; it fits in 80 columns."""
    result = run("report", "calls.jsonl")
    assert result.exit_code == 0
    lines = result.stdout.splitlines()
    assert lines[0] == "calls.jsonl: 2026-11-18T11:06:40+00:00 to 2026-11-18T11:26:40+00:00"
    assert lines[1] == "21 calls, 20 answered, 5 by a fallback; 1 cancelled"
    assert any(
        re.match(r"assistant +21 +95\.2 % +25\.0 % +\d+ ms +\d+ ms +\d+ ms +\$0\.0400*$", line) for line in lines
    )
    assert any(line.startswith("primary") and line.endswith("5  5 rate_limited") for line in map(str.rstrip, lines))
    assert max(map(len, lines)) <= 80


def test_a_cost_that_nobody_knows_is_told_as_unknown(run, here):
    """Not as nothing."""
    with CallLog(here / "calls.jsonl") as log:
        whole = call(0)
        unpriced = tuple(replace(attempt, cost_usd=None) for attempt in whole.record.attempts)
        log(replace(whole, record=replace(whole.record, attempts=unpriced)))
    assert "unknown" in run("report", "calls.jsonl").stdout


def test_json_has_the_same_as_data(run, log):
    """In total, by name, over time."""
    printed = json.loads(run("report", "calls.jsonl", "--json").stdout)
    assert (printed["total"]["calls"], printed["total"]["fallbacks"], printed["total"]["cost_usd"]) == (21, 5, 0.04)
    assert printed["by_deployment"]["primary"]["failures"] == {"rate_limited": 5}
    assert printed["by_chain"]["assistant"]["unanswered"] == {"cancelled": 1}
    assert sum(column["calls"] for column in printed["over_time"]) == 21
    assert sum(column["answered_by"].get("backup", 0) for column in printed["over_time"]) == 5
    assert len(printed["over_time"]) <= 60


@pytest.mark.parametrize("span_s", [0, 59, 3600, 86400, 40 * 86400, 400 * 86400])
def test_a_long_time_has_no_more_columns_than_a_page_can_show(run, here, span_s):
    """From one call to a year."""
    with CallLog(here / "calls.jsonl") as log:
        for part in range(200):
            log(call(part * span_s / 200 / 60))
    printed = json.loads(run("report", "calls.jsonl", "--json").stdout)
    assert len(printed["over_time"]) <= 60
    assert sum(column["calls"] for column in printed["over_time"]) == 200


def test_lines_that_are_none_are_told(run, log):
    """The rest is summed up all the same."""
    with log.open("a") as file:
        file.write('{"chain": \n')
    result = run("report", "calls.jsonl")
    assert "not readable: 1 line" in result.stdout
    assert "21 calls" in result.stdout


def test_a_log_without_a_call_is_a_finding(run, here):
    """Exit code 1; a file that is not there is wrong usage."""
    (here / "empty.jsonl").write_text("")
    result = run("report", "empty.jsonl")
    assert result.exit_code == 1
    assert result.stderr.startswith(
        "Error: there is no line of a log of calls in empty.jsonl; a log is what llm_fallback."
    )
    assert run("report", "nowhere.jsonl").exit_code == 2


@pytest.fixture
def logs(here):
    """Logs of two processes, which kept the tenant, and tags."""
    for process, tenant in (("one", "acme"), ("two", "umbrella")):
        with CallLog(here / f"{process}.jsonl", metadata="tenant") as log:
            for number in range(3):
                log(replace(call(number), metadata={"tenant": tenant}, tags=("nightly",)))
    return here


def test_several_logs_are_summed_up_together_by_any_key_of_metadata(run, logs):
    """One log for each process is what a service with workers has."""
    result = run("report", "one.jsonl", "two.jsonl", "--by", "tenant")
    assert result.exit_code == 0
    assert "6 calls, 6 answered" in result.stdout
    rows = [line.split() for line in result.stdout.splitlines()]
    assert [row[:2] for row in rows if row and row[0] in ("acme", "umbrella", "nightly", "assistant")] == [
        ["assistant", "6"],
        ["nightly", "6"],
        ["acme", "3"],
        ["umbrella", "3"],
    ]
    data = json.loads(run("report", "one.jsonl", "two.jsonl", "--by", "tenant", "--json").stdout)
    assert {tenant: own["calls"] for tenant, own in data["by_tenant"].items()} == {"acme": 3, "umbrella": 3}
    assert data["file"] == "one.jsonl, two.jsonl"


def test_a_key_that_the_log_does_not_have_is_told(run, log):
    """And one that is counted by anyway is wrong usage."""
    result = run("report", "calls.jsonl", "--by", "tenant")
    assert (result.exit_code, result.stderr) == (
        0,
        """no call has 'tenant' in its metadata; the log keeps it by CallLog(path, metadata=("tenant",))\n""",
    )
    refused = run("report", "calls.jsonl", "--by", "chain")
    assert refused.exit_code == 2
    assert "'chain' is counted by anyway" in refused.stderr


class Page(HTMLParser):
    """Whether every tag is closed in order, and what the page refers to."""

    def __init__(self, text):
        super().__init__()
        self.open, self.references = [], []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attributes):
        self.references += [value for name, value in attributes if name in ("src", "href", "data", "action")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_the_page_is_whole_and_needs_nothing_else(run, log, here):
    """Well-formed, with no address in it and a policy that forbids to load anything."""
    assert run("report", "calls.jsonl", "--html", "report.html").exit_code == 0
    text = (here / "report.html").read_text(encoding="utf-8")
    page = Page(text)
    assert (page.open, page.references) == ([], [])
    assert not re.search(r"https?://|url\(|@import|\bfetch\(|XMLHttpRequest", text)
    assert "default-src 'none'" in text


def test_names_from_the_log_are_text_on_the_page_and_never_run(run, here):
    """A chain may be called anything."""
    with CallLog(here / "calls.jsonl") as log:
        log(call(0, chain=NASTY))
    run("report", "calls.jsonl", "--html", "report.html")
    text = (here / "report.html").read_text(encoding="utf-8")
    assert NASTY not in text
    assert Page(text).open == []
    assert text.count("<script") == 1


def seen_by_a_browser(here, width):
    """What a browser of that width makes of the page, and what it complains of."""
    command = [
        CHROMIUM,
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        f"--user-data-dir={here / 'profile'}",
        "--enable-logging=stderr",
        f"--window-size={width},1600",
        "--dump-dom",
        (here / "report.html").as_uri(),
    ]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium is installed to look at the page with")
def test_the_page_has_a_table_for_tags_and_for_each_key_of_metadata(run, logs):
    """Beside the chains."""
    run("report", "one.jsonl", "two.jsonl", "--by", "tenant", "--html", "report.html")
    seen = seen_by_a_browser(logs, 1280)
    assert "CONSOLE" not in seen.stderr
    for told in ("<h2>By tag</h2>", "<h2>By tenant</h2>", "<td>acme</td><td>3</td>", "<td>nightly</td><td>6</td>"):
        assert told in seen.stdout


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium is installed to look at the page with")
@pytest.mark.parametrize("width", [1280, 390])
def test_the_page_renders_without_an_error(run, log, here, width):
    """Every chart is drawn, every number stands where it belongs, and the browser has no complaint."""
    run("report", "calls.jsonl", "--html", "report.html")
    seen = seen_by_a_browser(here, width)
    assert "CONSOLE" not in seen.stderr
    for chart in ("latency", "cost", "answers"):
        assert re.search(rf'<div class="chart" id="{chart}"><svg[^>]*>.*?<(path|rect)', seen.stdout, re.DOTALL), chart
    assert "<b>21</b><span>calls</span>" in seen.stdout
    assert "<h2>By tag</h2>" not in seen.stdout
    assert "rate limited 5" in seen.stdout


MISPLACED = """<script>
const labels = [...document.querySelectorAll("svg text, .tile b")].map(label => [label, label.getBoundingClientRect()]);
const apart = (a, b) => a.right <= b.left || b.right <= a.left || a.bottom <= b.top || b.bottom <= a.top;
const found = labels.flatMap(([label, own], i) => {
  const card = label.closest("section, .tile").getBoundingClientRect();
  const inside = own.left >= card.left && own.right <= card.right;
  return [...(inside ? [] : [label]), ...labels.slice(i + 1).filter(([, other]) => !apart(own, other)).map(([b]) => b)];
});
const texts = labels => JSON.stringify(labels.map(label => label.textContent));
document.body.append(`MISPLACED ${texts(found)} OF ${texts([...document.querySelectorAll("svg text")])} END`);
</script>"""


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium is installed to look at the page with")
@pytest.mark.parametrize("width", [1280, 500])
@pytest.mark.parametrize(
    ("latency_s", "usd", "minutes"),
    [(0.9, "0.002", 1), (0.000003, "0.00000012", 1), (2500.0, "123456", 60 * 24 * 9), (0.9, "0", 0)],
)
def test_no_label_lies_on_another_or_leaves_its_card(run, here, width, latency_s, usd, minutes):
    """Whatever the numbers: next to nothing, a fortune, nothing at all, all at once or over months."""
    with CallLog(here / "calls.jsonl") as log:
        for number in range(21):
            one = call(number * minutes, primary_fails=number % 4 == 3)
            attempts = tuple(replace(attempt, cost_usd=Decimal(usd)) for attempt in one.record.attempts)
            log(replace(one, record=replace(one.record, latency_s=latency_s, attempts=attempts)))
    run("report", "calls.jsonl", "--html", "report.html")
    page = here / "report.html"
    page.write_text(page.read_text(encoding="utf-8").replace("</body>", f"{MISPLACED}</body>"), encoding="utf-8")
    seen = seen_by_a_browser(here, width).stdout
    misplaced, drawn = re.search(r"MISPLACED (\[[^]]*\]) OF (\[[^]]*\]) END", seen).groups()
    assert json.loads(misplaced) == []
    assert len(json.loads(drawn)) > 8
    assert not {"0.25", "0.5", "0.75", "2.5"} & set(json.loads(drawn)), "a part of a call is counted"


ODD_LINES = {
    "a cost that is no number": {"attempts": [{"cost_usd": "x"}]},
    "a cost without an end": {"attempts": [{"cost_usd": float("inf")}]},
    "a chain that is no text": {"chain": 5},
    "a duration that is none": {"latency_s": True},
    "a moment before all": {"ended_at": "0001-01-01T00:00:00"},
    "tags that are none": {"tags": "ab"},
    "tokens beyond counting": {"attempts": [{"usage": {"input_tokens": 10**4000}}]},
}


@pytest.mark.parametrize(
    "odd", [*ODD_LINES.values(), "[" * 100_000, "9" * 5000, "\x00"], ids=[*ODD_LINES, "deep", "long", "0"]
)
def test_no_line_of_a_log_ends_the_report(run, here, log, odd):
    """What is no call of ours is counted as not readable, and the others are summed up."""
    good = json.loads((here / "calls.jsonl").read_text(encoding="utf-8").splitlines()[0])
    if isinstance(odd, dict):
        attempt = {**good["attempts"][0], **odd.get("attempts", [{}])[0]}
        odd = json.dumps({**good, **odd, "attempts": [attempt]})
    (here / "odd.jsonl").write_text(f"{json.dumps(good)}\n{odd}\n", encoding="utf-8")
    result = run("report", "odd.jsonl", "--html", "page.html")
    assert result.exit_code == 0, result.output
    assert "not readable: 1 line" in result.stdout


def test_names_are_shown_as_they_are_whatever_they_hold(run, here):
    """Markup is text, an escape for the terminal and half a character are escaped, and no two names look the same."""
    chains = ["[/x]", "gpt[bold]", "gpt[4]", "gpt", "\x1b[2J", r"\x1b[2J", "\ud83d", r"\ud83d"]
    with CallLog(here / "calls.jsonl", metadata="team") as log:
        for number, chain in enumerate(chains):
            log(replace(call(number, chain=chain), metadata={"team": "\ud83d"}))
    result = run("report", "calls.jsonl", "--html", "page.html")
    assert result.exit_code == 0, result.output
    rows = [line.split()[0] for line in result.stdout.splitlines() if " 100.0 %" in line]
    assert sorted(rows) == sorted(
        ["[/x]", "gpt[bold]", "gpt[4]", "gpt", r"\x1b[2J", r"\\x1b[2J", r"\ud83d", r"\\ud83d"]
    )
    assert r'"\ud83d"' in (here / "page.html").read_text(encoding="utf-8")
    assert set(json.loads(run("report", "calls.jsonl", "--json").stdout)["by_chain"]) == set(chains)
