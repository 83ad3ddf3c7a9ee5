"""Large content outside the database: a local folder, S3 and its kin, memory for tests (obstore underneath).

A blob is written, and on a local folder fsynced with its folder, before the transaction that names it; a sweep removes blobs that
no row has named after a day. Keys are made by us (never by names from a mail): `<org>/<yyyy-mm>/<uuid>`.

    blobs = blob.open(**dict(settings.blob))
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from mailcore.blob.base import INLINE_BYTES, BlobStore, new_key
from mailcore.blob.local import LocalBlobs
from mailcore.blob.memory import MemoryBlobs
from mailcore.kit.errors import Refused

if TYPE_CHECKING:
    from pydantic import SecretStr

__all__ = ["INLINE_BYTES", "BlobStore", "LocalBlobs", "MemoryBlobs", "new_key", "open"]


def open(
    url: str,
    *,
    s3_endpoint: str | None = None,
    s3_region: str = "us-east-1",
    s3_access_key: str | None = None,
    s3_secret_key: SecretStr | None = None,
) -> BlobStore:
    """The store behind `file:///folder`, `s3://bucket/prefix` or `memory://`. Connects to nothing yet.

    Raises Refused for any other URL.
    """
    scheme, _, rest = url.partition("://")
    if scheme == "file" and rest:
        return LocalBlobs(Path(rest))
    if scheme == "memory":
        return MemoryBlobs()
    if scheme == "s3" and rest:
        # imported here: who keeps blobs in a folder does not wait for obstore's library to load
        from mailcore.blob.s3 import S3Blobs  # noqa: PLC0415

        bucket, _, prefix = rest.partition("/")
        return S3Blobs.connect(
            bucket,
            prefix=prefix.strip("/"),
            endpoint=s3_endpoint,
            region=s3_region,
            access_key=s3_access_key,
            secret_key=s3_secret_key.get_secret_value() if s3_secret_key else None,
        )
    raise Refused("POSTROOM_BLOB__URL must be file:///folder or s3://bucket/prefix.")
