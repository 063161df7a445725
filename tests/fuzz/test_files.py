"""Files that somebody hands in, spoilt: specs, configurations of a LiteLLM proxy, recordings, logs of calls."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import yaml
from hypothesis import given

from llm_fallback import SpecError, load_spec
from llm_fallback.exporters.jsonl import CallLog, read
from llm_fallback.plan.checks import check
from llm_fallback.spec.dump import dump_spec
from llm_fallback.spec.litellm_proxy.write import write_config
from llm_fallback.testing import Fail, Reply, fake_chat_model, recorded
from llm_fallback.testing.recordings import Recorded, _exchange, line_of
from tests.fuzz.spoiling import spoilt_bytes, spoilt_document, tries

ROOT = Path(__file__).parents[2]
SPECS = sorted({*ROOT.glob("examples/**/*.yaml"), ROOT / "tests/data/contract.yaml"})
PROXIES = sorted(ROOT.glob("tests/data/litellm/**/*.yaml"))


def documents(paths: Sequence[Path]) -> list[Any]:
    return [yaml.safe_load(path.read_text(encoding="utf-8")) for path in paths]


def texts(paths: Sequence[Path]) -> list[bytes]:
    return [path.read_bytes() for path in paths]


def hold(*sources: Any) -> None:
    """A spec that can be written in both forms and checked, or a SpecError that can be read."""
    try:
        spec = load_spec(*sources)
    except SpecError as error:
        assert error.mistakes
        str(error).encode(errors="surrogatepass")
        return
    assert load_spec(dump_spec(spec)[0]).chains.keys() == spec.chains.keys()
    write_config(spec)
    for finding in check(spec):
        assert str(finding)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("files")


@given(spoilt_document(documents(SPECS)))
@tries(300)
def test_a_mapping_is_a_spec_or_a_spec_error(document):
    """Whatever its values are."""
    hold(document if isinstance(document, dict) else {"deployments": document})


@given(spoilt_document(documents(PROXIES)))
@tries(300)
def test_a_proxy_s_configuration_is_a_spec_or_a_spec_error(document):
    """Whatever its values are."""
    hold(document if isinstance(document, dict) else {"model_list": document})


@pytest.mark.parametrize("suffix", ["yaml", "json", "toml"])
@given(
    text=spoilt_bytes([*texts(SPECS), *texts(PROXIES), b'{"deployments": {"a": {"model": "openai/x"}}}', b"[a]\nb = 1"])
)
@tries(150)
def test_a_file_is_a_spec_or_a_spec_error(suffix, text, folder):
    """Whatever its bytes are, in every form."""
    path = folder / f"spec.{suffix}"
    path.write_bytes(text)
    hold(path)


@given(spoilt_document(documents(SPECS)), spoilt_document(documents(SPECS)))
@tries(100)
def test_an_overlay_is_part_of_a_spec_or_a_spec_error(base, over):
    """Whatever stands in either."""
    hold(base if isinstance(base, dict) else {"x-a": base}, over if isinstance(over, dict) else {"x-a": over})


EXCHANGES = [
    line_of("a", {"model": "m"}, Recorded(stream=True, status=200, parts=((0.1, b"data: {}\n\n"), (0.0, b"\xff")))),
    line_of("b", {}, Recorded(stream=False, status=429, headers={"retry-after": "7"}, length=2, parts=((0.0, b"no"),))),
    line_of("a", {}, Recorded(stream=False, end="silence")),
]


def played(folder: Path, text: bytes) -> None:
    """The scripts of a recording, or a ValueError that names file and line."""
    path = folder / "recording.jsonl"
    path.write_bytes(text)
    try:
        tapes = recorded(path)
    except ValueError as error:
        assert str(error).startswith(f"{path}:")
        return
    for tape in tapes.values():
        assert isinstance(tape.deployment, str)
        for exchange in tape.exchanges:
            _exchange(json.loads(line_of(tape.deployment, {}, exchange)))


@given(text=spoilt_bytes(["".join(EXCHANGES).encode(), *(line.encode() for line in EXCHANGES)]))
@tries(200)
def test_a_file_is_a_recording_or_a_value_error(text, folder):
    """Whatever its bytes are."""
    played(folder, text)


@given(document=spoilt_document([json.loads(line) for line in EXCHANGES]))
@tries(300)
def test_a_line_is_a_recorded_exchange_or_a_value_error(document, folder):
    """Whatever its values are."""
    played(folder, json.dumps(document).encode())


def calls() -> list[str]:
    """Lines of a log of calls."""
    with TemporaryDirectory() as folder:  # Of its own: several processes collect these tests at a time.
        path = Path(folder) / "calls.jsonl"
        with CallLog(path, metadata="tenant") as log:
            model = fake_chat_model({"a": Fail(429, retry_after=7), "b": Reply("hi", usage=(3, 4))}, listeners=[log])
            model.invoke("x", config={"metadata": {"tenant": "t"}})
        return path.read_text(encoding="utf-8").splitlines()


@given(document=spoilt_document([json.loads(line) for line in calls()]))
@tries(300)
def test_a_line_of_a_log_is_a_call_or_none(document, folder):
    """Whatever its values are; the line behind it is read."""
    path = folder / "calls.jsonl"
    path.write_text(json.dumps(document) + "\n" + calls()[0] + "\n", encoding="utf-8")
    found = list(read(path))
    assert len(found) == 2
    assert found[1] is not None
