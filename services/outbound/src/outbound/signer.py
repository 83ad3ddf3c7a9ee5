"""Sending domains as they are needed to sign: key objects kept for a minute, so that a revoked key is out of use by then.

That a domain is paused is not remembered: its mail leaves as soon as it is resumed. Its TLS policy is asked with each content.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable
from dataclasses import dataclass
from uuid import UUID

from mailcore.kit.errors import MailError
from mailcore.kit.log import logger
from mailcore.kit.seal import Keyring
from mailcore.mailauth.dkim.keys import SigningKey
from mailcore.store.senders import Sender, senders
from mailcore.store.session import Store

log = logger(__name__)

TTL_SECONDS = 60.0
"""How long a domain's keys are kept."""
MOST = 10_000
"""Domains that are kept."""


@dataclass(frozen=True, slots=True)
class Identity:
    return_path: str
    """The domain of return paths."""
    keys: tuple[SigningKey, ...]
    """All sign. Empty: the mail waits, for it never leaves unsigned."""
    paused: bool = False
    """The mail waits."""


class Signer:
    def __init__(self, store: Store, keyring: Keyring, *, ttl_seconds: float = TTL_SECONDS) -> None:
        self._store = store
        self._keyring = keyring
        self._ttl_seconds = ttl_seconds
        self._known: dict[UUID, tuple[float, Identity]] = {}

    async def identities(self, domain_ids: Iterable[UUID]) -> dict[UUID, Identity]:
        """Of those that exist. Raises Unavailable."""
        now = time.monotonic()
        wanted = set(domain_ids)
        missing = [id_ for id_ in wanted if id_ not in self._known or self._known[id_][0] <= now]
        if missing:
            async with self._store.worker() as db:
                found = await senders(db, missing)
            # unsealing and OpenSSL's check of an RSA key take a millisecond
            loaded = await asyncio.to_thread(lambda: {id_: self._load(sender) for id_, sender in found.items()})
            if len(self._known) + len(missing) > MOST:
                self._known.clear()
            for id_ in missing:
                self._known.pop(id_, None)
            for id_, identity in loaded.items():
                self._known[id_] = (now if identity.paused else now + self._ttl_seconds, identity)
        return {id_: self._known[id_][1] for id_ in wanted if id_ in self._known}

    def _load(self, sender: Sender) -> Identity:
        keys: list[SigningKey] = []
        for sealed in sender.keys:
            try:
                keys.append(
                    SigningKey.load(sealed.selector, sender.name, self._keyring.open(sealed.private_sealed, "dkim"))
                )
            except Exception as error:  # of this domain alone
                why = error.public if isinstance(error, MailError) else repr(error)
                log.error("a signing key cannot be used", domain=sender.name, selector=sealed.selector, error=why)
        return Identity(f"{sender.custom_return_path}.{sender.name}", tuple(keys), sender.paused)
