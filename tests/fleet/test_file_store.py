"""A fleet on one machine, in a file."""

from __future__ import annotations

import asyncio
import json
import stat
from pathlib import Path

import pytest

from llm_fallback.fleet.file_store import FileStore
from llm_fallback.fleet.messages import Claim, Overtaken, Request, StoreError


def request(member: str, number: int, *claims: Claim, evidence: str = "") -> Request:
    return Request(member, number, number - 1, "", 0.02, True, evidence, claims)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "fleet.json"


async def test_members_meet_in_it(path):
    """Each opens the file for itself."""
    one, other = FileStore(path, "prod"), FileStore(path, "prod")
    await one.exchange(request("a", 1, evidence="down"))
    heard = await other.exchange(request("b", 1))
    assert heard.evidence["a"][1] == "down"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


async def test_fleets_of_other_names_share_nothing_but_the_file(path):
    """Nor do other versions."""
    await FileStore(path, "prod").exchange(request("a", 1, evidence="down"))
    assert (await FileStore(path, "test").exchange(request("b", 1))).evidence == {}
    assert len(json.loads(path.read_text())) == 2


@pytest.mark.parametrize("written", [b"", b"{", b"[]", b'{"1:prod": 3}', b'{"1:prod": {"epoch": 1}}', b"\xff"])
async def test_what_cannot_be_read_is_begun_anew(path, written):
    """The members know what they have used."""
    path.write_bytes(written)
    assert (await FileStore(path, "prod").exchange(request("a", 1))).members == 1


async def test_a_later_request_that_was_there_before_is_told(path):
    """As by any store."""
    store = FileStore(path, "prod")
    await store.exchange(request("a", 2))
    with pytest.raises(Overtaken):
        await store.exchange(request("a", 1))


async def test_a_file_that_cannot_be_written_is_a_store_that_does_not_answer(tmp_path):
    """The process goes on by what it knows."""
    with pytest.raises(StoreError, match="Is a directory"):
        await FileStore(tmp_path, "prod").exchange(request("a", 1))


async def test_exchanges_at_the_same_time_lose_nothing(path):
    """One after the other has its turn with the file."""
    stores = [FileStore(path, "prod") for _ in range(8)]
    for number in range(1, 4):
        await asyncio.gather(*(store.exchange(request(f"m{i}", number)) for i, store in enumerate(stores)))
    answer = await stores[0].exchange(request("m0", 9, evidence=""))
    assert answer.members == 8
