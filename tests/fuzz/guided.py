"""Fuzzing that is guided by which lines run, by atheris: `python -m tests.fuzz.guided TARGET [seconds]`.

What it finds in the bytes of a stream or a body becomes a seed or a test of its own in test_replies.py. Inputs that led
to new lines are kept below .fuzz/, and begun with the next time.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["llm_fallback.engine"]):
    from llm_fallback.engine.protocol.faults import fault_of_response
    from tests.engine.protocol.spoken import read_plain, read_stream
    from tests.fuzz.test_replies import ERRORS, READERS, streams

KEPT = Path(__file__).parents[2] / ".fuzz"


def _stream(name: str) -> Callable[[bytes], None]:
    reader = READERS[name][0]

    def read(data: bytes) -> None:
        read_stream(reader, [data[:40], data[40:]])
        read_plain(reader, data)

    return read


TARGETS: dict[str, Callable[[bytes], None]] = {name: _stream(name) for name in READERS}
TARGETS["errors"] = lambda data: [fault_of_response(status, {}, data) for status in (400, 429, 500)] and None


def seeds(target: str) -> Path:
    """The folder of a target's inputs, with those of the corpus."""
    folder = KEPT / target
    folder.mkdir(parents=True, exist_ok=True)
    for number, seed in enumerate(streams(READERS[target][1]) if target in READERS else ERRORS):
        (folder / f"seed-{number}").write_bytes(seed)
    return folder


if __name__ == "__main__":
    target, *seconds = sys.argv[1:]
    limits = ["-max_len=4096", f"-max_total_time={seconds[0] if seconds else 60}", f"-artifact_prefix={KEPT}/{target}-"]
    atheris.Setup([sys.argv[0], *limits, str(seeds(target))], TARGETS[target])
    atheris.Fuzz()
