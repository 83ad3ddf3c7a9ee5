"""What the routes of a process share; made once by main, found at `request.app.ctx`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated

from fastapi import Depends
from starlette.requests import HTTPConnection

from api.limits import Limits
from api.logs.writer import LogWriter
from api.messages.remote import RemoteImages
from api.people.attempts import Attempts
from api.people.tokens import Tokens
from api.settings import Settings
from mailcore.blob.base import BlobStore
from mailcore.dns.resolver import Resolver
from mailcore.flow.claims import Claims
from mailcore.flow.dkim import Dkim
from mailcore.flow.domains import Domains
from mailcore.flow.keys import Keys
from mailcore.flow.mirror import ImapDoor
from mailcore.flow.parse import Reader
from mailcore.flow.people import People
from mailcore.flow.provider_events import Reports
from mailcore.flow.shaping import Shaping
from mailcore.flow.submit import Submits
from mailcore.flow.trace import Tracer
from mailcore.flow.track import Tracks
from mailcore.kit.guard import Guard, GuardedClient
from mailcore.kit.seal import Keyring
from mailcore.queue.bell import Ringer
from mailcore.store.session import Store


@dataclass(frozen=True, slots=True)
class Context:
    settings: Settings
    store: Store
    ringer: Ringer
    keyring: Keyring
    blobs: BlobStore
    submits: Submits
    tracks: Tracks
    attachments: GuardedClient
    """For URLs that callers name as attachments."""
    images: RemoteImages
    """For images that strangers' mail names."""
    keys: Keys
    limits: Limits
    logs: LogWriter | None
    """None: calls are not logged."""
    imap: ImapDoor
    domains: Domains
    claims: Claims
    dkim: Dkim
    people: People
    tokens: Tokens
    attempts: Attempts
    shaping: Shaping
    tracer: Tracer
    resolver: Resolver
    """Without a cache: for who has just changed a record."""
    reports: Reports
    """What providers post."""
    smart_hosts: Guard
    """For hosts that organizations name."""
    reader: Reader = field(default_factory=Reader)


def context(request: HTTPConnection) -> Context:
    ctx: Context = request.scope["app"].ctx
    return ctx


Ctx = Annotated[Context, Depends(context)]
