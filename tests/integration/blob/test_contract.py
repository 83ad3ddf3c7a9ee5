"""One contract for every blob store: local folder, S3 over HTTP, S3's class on obstore's memory, memory."""

from __future__ import annotations

import os
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from obstore.store import MemoryStore
from pydantic import SecretStr

from fakes import s3 as fake_s3
from mailcore import blob
from mailcore.blob.base import BlobStore
from mailcore.blob.s3 import S3Blobs
from mailcore.kit.errors import NotFound, Refused, Unavailable
from mailcore.kit.ids import uuid7


@pytest.fixture(params=["local", "s3", "obstore-memory", "memory"])
def blobs(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[BlobStore]:
    if request.param == "local":
        yield blob.open(f"file://{tmp_path}/deep/blobs")
    elif request.param == "memory":
        yield blob.open("memory://")
    elif request.param == "obstore-memory":
        yield S3Blobs(MemoryStore())
    else:
        with fake_s3.running("mail") as server:
            yield blob.open(
                "s3://mail/pre/fix",
                s3_endpoint=server.url,
                s3_access_key="access",
                s3_secret_key=SecretStr("secret"),
            )


def _later() -> datetime:
    return datetime.now(UTC) + timedelta(minutes=1)


async def test_what_is_put_is_got_byte_for_byte(blobs: BlobStore) -> None:
    key = blob.new_key(uuid7())
    content = bytes(range(256)) * 1000
    await blobs.put(key, content)
    assert await blobs.get(key) == content
    await blobs.put(key, b"")
    assert await blobs.get(key) == b""


async def test_what_is_not_there_is_not_found_and_deleting_it_is_no_error(blobs: BlobStore) -> None:
    key = blob.new_key(uuid7())
    with pytest.raises(NotFound):
        await blobs.get(key)
    await blobs.delete(key)
    await blobs.put(key, b"x")
    await blobs.delete(key)
    with pytest.raises(NotFound):
        await blobs.get(key)


async def test_keys_are_listed_by_age(blobs: BlobStore) -> None:
    keys = {blob.new_key(uuid7()) for _ in range(5)}
    for key in keys:
        await blobs.put(key, b"x")
    assert {key async for key in blobs.keys(older_than=_later())} == keys
    assert [key async for key in blobs.keys(older_than=datetime.now(UTC) - timedelta(hours=1))] == []


async def test_check_leaves_nothing_behind(blobs: BlobStore) -> None:
    await blobs.check()
    assert [key async for key in blobs.keys(older_than=_later())] == []


@pytest.mark.parametrize(
    "key", ["../x", "a/../../x", "/etc/passwd", "a//b", "", ".", "a/./b", "a\x00b", "a\\b", "a/b/"]
)
async def test_a_key_that_could_lead_outside_is_refused(blobs: BlobStore, key: str) -> None:
    with pytest.raises(Refused):
        await blobs.put(key, b"x")
    with pytest.raises(Refused):
        await blobs.get(key)
    with pytest.raises(Refused):
        await blobs.delete(key)


async def test_a_folder_that_cannot_be_written_is_unavailable(tmp_path: Path) -> None:
    (tmp_path / "blobs").write_bytes(b"a file stands where the folder should")
    blobs = blob.open(f"file://{tmp_path}/blobs")
    with pytest.raises(Unavailable):
        await blobs.put("a/b", b"x")
    with pytest.raises(Unavailable):
        await blobs.check()


async def test_what_a_crash_left_half_written_is_never_read_but_swept(tmp_path: Path) -> None:
    blobs = blob.open(f"file://{tmp_path}")
    await blobs.put("a/b", b"whole")
    (tmp_path / "a" / "b.0123.part").write_bytes(b"hal")
    for name in ("b", "b.0123.part"):
        os.utime(tmp_path / "a" / name, (1, 1))
    assert await blobs.get("a/b") == b"whole"
    assert {key async for key in blobs.keys(older_than=_later())} == {"a/b", "a/b.0123.part"}
    await blobs.delete("a/b.0123.part")
    assert [key async for key in blobs.keys(older_than=_later())] == ["a/b"]


async def test_s3_that_is_away_is_unavailable_and_not_not_found() -> None:
    with fake_s3.running("mail") as server:
        blobs = blob.open(
            "s3://mail", s3_endpoint=server.url, s3_access_key="access", s3_secret_key=SecretStr("secret")
        )
        await blobs.put("a/b", b"x")
        server.refuse = True
        with pytest.raises(Unavailable):
            await blobs.put("a/c", b"x")
        with pytest.raises(Unavailable):
            await blobs.get("a/b")
        server.refuse = False
        assert await blobs.get("a/b") == b"x"


async def test_a_wrong_s3_key_is_unavailable() -> None:
    with fake_s3.running("mail") as server:
        blobs = blob.open("s3://mail", s3_endpoint=server.url, s3_access_key="other", s3_secret_key=SecretStr("s"))
        with pytest.raises(Unavailable):
            await blobs.check()


def test_another_scheme_is_refused() -> None:
    with pytest.raises(Refused):
        blob.open("ftp://example.com/blobs")
