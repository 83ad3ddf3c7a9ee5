"""S3 and what speaks its protocol, through obstore. A PUT that is answered is durable (S3 is strongly consistent since 2020)."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

import obstore
from obstore.exceptions import BaseError, NotFoundError
from obstore.store import S3Store

from mailcore.blob.base import Spooled, check_key, round_trip
from mailcore.kit.errors import NotFound, Unavailable
from mailcore.kit.log import logger

if TYPE_CHECKING:
    from obstore.store import ObjectStore

log = logger(__name__)

_LISTED = 500


class S3Blobs:
    """`store` is any of obstore's; `connect` makes the one for a bucket."""

    def __init__(self, store: ObjectStore) -> None:
        self._store = store

    @classmethod
    def connect(
        cls,
        bucket: str,
        *,
        prefix: str = "",
        endpoint: str | None = None,
        region: str = "us-east-1",
        access_key: str | None = None,
        secret_key: str | None = None,
    ) -> S3Blobs:
        """Without an access key the machine's own role is asked for one. `endpoint` is for what is not AWS."""
        config: dict[str, Any] = {"region": region}
        if endpoint:
            config |= {"endpoint": endpoint, "virtual_hosted_style_request": False}
        if access_key and secret_key:
            config |= {"access_key_id": access_key, "secret_access_key": secret_key}
        store = S3Store(
            bucket,
            prefix=prefix or None,
            config=config,  # type: ignore[arg-type]
            client_options={
                "allow_http": bool(endpoint and endpoint.startswith("http://")),
                "connect_timeout": timedelta(seconds=3),
                "timeout": timedelta(seconds=60),
            },
            retry_config={"max_retries": 3, "retry_timeout": timedelta(seconds=30)},
        )
        return cls(store)

    async def put(self, key: str, content: bytes) -> None:
        try:
            await obstore.put_async(self._store, check_key(key), content)
        except (BaseError, OSError) as error:
            raise _unavailable(error) from error

    async def put_file(self, key: str, content: Spooled) -> None:
        try:
            with content.path.open("rb") as file:  # in parts, a few at a time
                await obstore.put_async(self._store, check_key(key), file)
        except (BaseError, OSError) as error:
            raise _unavailable(error) from error

    async def get(self, key: str) -> bytes:
        try:
            found = await obstore.get_async(self._store, check_key(key))
            return bytes(await found.bytes_async())
        except (NotFoundError, FileNotFoundError) as error:
            raise NotFound("This content is no longer kept.") from error
        except (BaseError, OSError) as error:
            raise _unavailable(error) from error

    async def delete(self, key: str) -> None:
        try:
            await obstore.delete_async(self._store, check_key(key))
        except (NotFoundError, FileNotFoundError):
            pass
        except (BaseError, OSError) as error:
            raise _unavailable(error) from error

    async def keys(self, *, older_than: datetime) -> AsyncIterator[str]:
        try:
            async for page in obstore.list(self._store, chunk_size=_LISTED):
                for found in page:
                    if found["last_modified"] < older_than:
                        yield found["path"]
        except (BaseError, OSError) as error:
            raise _unavailable(error) from error

    async def check(self) -> None:
        await round_trip(self)


def _unavailable(error: Exception) -> Unavailable:
    log.warning("blob store failed", error=str(error).strip().partition("\n")[0][:300])
    return Unavailable("The blob store does not answer just now. Try again in a moment.")
