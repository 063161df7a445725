"""A journal: whole lines, one writer, and an end that is mended."""

from __future__ import annotations

import subprocess
import sys

import pytest

from llm_fallback.chat_model.batch.journal import Journal
from llm_fallback.errors import BatchRefused

WHOLE = b'{"row": 0}\n{"row": 1}\n'


def opened(path, content):
    path.write_bytes(content)
    with Journal(path):
        pass
    return path.read_bytes()


@pytest.mark.parametrize("cut", range(1, len(b'{"row": 2, "answer": "\xc3\xa9"}')))
def test_a_line_that_was_cut_short_is_taken_back(tmp_path, cut):
    """Wherever that was, in the middle of a character too."""
    torn = b'{"row": 2, "answer": "\xc3\xa9"}'[:cut]
    assert opened(tmp_path / "a.jsonl", WHOLE + torn) == WHOLE
    assert opened(tmp_path / "b.jsonl", torn) == b""


def test_a_line_that_lacks_only_its_end_is_kept(tmp_path):
    """Its answer is paid for."""
    assert opened(tmp_path / "a.jsonl", WHOLE + b'{"row": 2}') == WHOLE + b'{"row": 2}\n'


def test_what_a_power_failure_leaves_is_taken_back(tmp_path):
    """Zeros in place of what the disk did not get."""
    assert opened(tmp_path / "a.jsonl", WHOLE + bytes(100_000)) == WHOLE


def test_a_line_longer_than_a_block_is_mended_too(tmp_path):
    """Its beginning is found however far back it is."""
    assert opened(tmp_path / "a.jsonl", WHOLE + b'{"answer": "' + b"x" * 300_000) == WHOLE


def test_a_whole_journal_is_left_as_it_is(tmp_path):
    """Opening it changes nothing."""
    assert opened(tmp_path / "a.jsonl", WHOLE) == WHOLE


def test_a_second_writer_is_refused_until_the_first_is_through(tmp_path):
    """In this process or another; reading it is nobody's harm."""
    path = tmp_path / "a.jsonl"
    with Journal(path) as journal:
        journal.append(b'{"row": 0}\n')
        with pytest.raises(BatchRefused, match=r"a.jsonl: another batch is writing it"):
            Journal(path)
        assert path.read_bytes() == b'{"row": 0}\n'
    with Journal(path) as again:
        assert not again.is_empty


@pytest.mark.slow
def test_the_lock_of_a_process_ends_with_it(tmp_path):
    """However it ends."""
    path = tmp_path / "a.jsonl"
    program = (
        "import os, pathlib; from llm_fallback.chat_model.batch.journal import Journal;"
        f"j = Journal(pathlib.Path({str(path)!r})); j.append(b'{{}}\\n'); os.kill(os.getpid(), 9)"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == -9
    with Journal(path) as journal:
        assert [line for _, line in journal.lines()] == [b"{}\n"]


def test_lines_can_be_put_in_place_of_others_and_added_to(tmp_path):
    """Under the same lock, though the file is another one."""
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"row": 0}\n{"row": 1}\n{"row": 2}\n')
    with Journal(path) as journal:
        journal.replace(line for number, line in journal.lines() if number != 2)
        journal.append(b'{"row": 1}\n')
        with pytest.raises(BatchRefused):
            Journal(path)
    assert path.read_bytes() == b'{"row": 0}\n{"row": 2}\n{"row": 1}\n'
    assert [file.name for file in tmp_path.iterdir()] == ["a.jsonl"]


def test_a_line_that_the_disk_has_no_room_for_is_taken_back_whole(tmp_path):
    """And said, with the file; what was written before stays."""
    path = tmp_path / "a.jsonl"
    with Journal(path) as journal:
        journal.append(WHOLE)
        write = journal._file.write

        class Full:
            def __getattr__(self, name):
                return getattr(file, name)

            def write(self, line):
                return write(line[:5])

        file = journal._file
        journal._file = Full()  # type: ignore[assignment]
        with pytest.raises(OSError, match="the disk is full"):
            journal.append(b'{"row": 2}\n')
        journal._file = file
        journal.append(b'{"row": 3}\n')
    assert path.read_bytes() == WHOLE + b'{"row": 3}\n'
