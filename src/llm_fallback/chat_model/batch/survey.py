"""What there is of a batch before it goes on: a source that can be asked, and the rows of it that have answers.

All of it is checked before anything is sent, so that a mistake in the last row is not found after a weekend.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any, Literal

from llm_fallback.chat_model.batch.journal import Journal
from llm_fallback.chat_model.batch.prompts import column_of
from llm_fallback.chat_model.batch.rows import OURS, Row, as_line, checksum, format_of, parse_line, read_rows
from llm_fallback.engine.encoding import read_json
from llm_fallback.errors import BatchRefused


@dataclass(frozen=True, slots=True)
class BatchRequest:
    """What is to be answered, where the answers go, and how."""

    source: Path
    target: Path
    prompt: str | None = None
    """The column to ask; None: `messages` or `prompt`."""
    schema: Any = None
    """The form of the answers, as `with_structured_output` takes it; None: text."""
    concurrency: int | Literal["auto"] = "auto"
    """The most rows under way."""
    resume: bool = True
    """Whether to go on with a target that is there; else it is begun anew."""
    retry_failed: bool = False
    """Whether rows that failed are asked again."""

    @property
    def journal(self) -> Path:
        """Where rows are written as they are answered."""
        is_journal = format_of(self.target) == "jsonl"
        return self.target if is_journal else self.target.with_name(f"{self.target.name}.partial.jsonl")


@dataclass(slots=True)
class Tally:
    """How far a batch is, earlier runs of it included."""

    rows: int = 0
    """Of the source."""
    answered: int = 0
    failed: int = 0
    cost_usd: Decimal | None = Decimal(0)
    """None once the cost of a row is not known."""
    in_flight: int = 0

    @property
    def left(self) -> int:
        return self.rows - self.answered - self.failed

    def add(self, row: dict[str, Any]) -> None:
        """Count a row of the target."""
        if row.get("error") is None:
            self.answered += 1
        else:
            self.failed += 1
        facts = row["llm_fallback"]
        usd = facts.get("cost_usd") if isinstance(facts, dict) else None
        self.cost_usd = None if usd is None or self.cost_usd is None else self.cost_usd + Decimal(str(usd))


@dataclass(slots=True)
class Survey:
    """What was found, and which rows are done."""

    tally: Tally = field(default_factory=Tally)
    dropped: set[int] = field(default_factory=set)
    """Lines of the target that failed and are to be asked again."""
    _checksums: array[int] = field(default_factory=lambda: array("Q"))
    """Of each row of the target by its number; 0 for one that is not there."""

    def is_done(self, number: int) -> bool:
        return number < len(self._checksums) and self._checksums[number] != 0

    def add(self, row: dict[str, Any], place: str) -> None:
        """Note a row of the target."""
        number = row.get("row")
        if not isinstance(number, int) or isinstance(number, bool) or number < 0 or "llm_fallback" not in row:
            raise BatchRefused(f"{place}: is no row of a batch's; name another target, or move this one away")
        if self.is_done(number):
            raise BatchRefused(f"{place}: row {number} stands here a second time; remove one of the two lines")
        if number >= len(self._checksums):
            self._checksums.extend([0] * (number + 1 - len(self._checksums)))
        self._checksums[number] = checksum(row)
        self.tally.add(row)

    def compare(self, number: int, row: Row, target: Path) -> None:
        """Raise BatchRefused if the target's row was the answer to another one."""
        if self.is_done(number) and self._checksums[number] != checksum(row.fields):
            raise BatchRefused(
                f"{row.place}: row {number} is not the one that was answered in {target}: the source has changed; "
                "name another target, or begin this one anew without resume"
            )

    @property
    def rows_of_target(self) -> int:
        return len(self._checksums)


def survey(request: BatchRequest, journal: Journal) -> Survey:
    """Check source and target, and change neither."""
    found = Survey()
    for number, row, place in _target_rows(request, journal):
        if request.retry_failed and row.get("error") is not None:
            found.dropped.add(number)
        else:
            found.add(row, place)
    _check_source(request, found)
    return found


def drop_failed(request: BatchRequest, journal: Journal, found: Survey) -> None:
    """Take the rows that are to be asked again out of the target, and a table's others back into its journal."""
    if found.dropped:
        kept = (row for number, row, _ in _target_rows(request, journal) if number not in found.dropped)
        journal.replace(as_line(row) for row in kept)


def source_rows(request: BatchRequest) -> Iterator[tuple[int, Row]]:
    """The rows of the source by their number."""
    return enumerate(read_rows(request.source))


def check_paths(request: BatchRequest) -> None:
    """Raise BatchRefused for a source or target that no batch could have, OSError for a source that is not there."""
    format_of(request.source)
    format_of(request.target)
    request.source.stat()
    for path in (request.target, request.journal):
        if path.exists() and path.samefile(request.source):
            raise BatchRefused(f"{request.source}: is source and target; name another target")


def _check_source(request: BatchRequest, found: Survey) -> None:
    for number, row in source_rows(request):
        taken = next((name for name in OURS if name in row.fields), None)
        if taken is not None:
            raise BatchRefused(f"{row.place}: has a column {taken!r}, which the answer adds; give it another name")
        column_of(row.fields, request.prompt, row.place)
        found.compare(number, row, request.target)
        found.tally.rows = number + 1
    if found.rows_of_target > found.tally.rows:
        last = found.rows_of_target - 1
        raise BatchRefused(f"{request.target}: has row {last}, and {request.source} has only {found.tally.rows} rows")


def _target_rows(request: BatchRequest, journal: Journal) -> Iterator[tuple[int, dict[str, Any], str]]:
    """The rows that are there already: number of the line, row, place."""
    if not journal.is_empty:
        for number, line in journal.lines():
            place = f"{journal.path}:{number}"
            yield number, parse_line(line, place), place
    elif _has_finished_table(request):
        for number, (place, fields) in enumerate(read_rows(request.target)):
            yield number, _from_cells(fields, place, request), place


def _has_finished_table(request: BatchRequest) -> bool:
    return request.resume and request.journal != request.target and request.target.exists()


def _from_cells(fields: dict[str, Any], place: str, request: BatchRequest) -> dict[str, Any]:
    """A row of a table as it was in its journal."""
    try:
        row = {**fields, "row": int(fields["row"]), "llm_fallback": read_json(fields["llm_fallback"])}
        error, answer = fields["error"], fields["answer"]
        row["answer"] = read_json(answer) if answer and request.schema is not None else answer
        del row["error"]
        return {**row, "answer": None, "error": read_json(error)} if error else row
    except (KeyError, TypeError, ValueError, RecursionError):
        raise BatchRefused(f"{place}: is no row of a batch's; name another target, or move this one away") from None
