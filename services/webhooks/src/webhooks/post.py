"""One post: compose, sign with this attempt's time, send, judge the answer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import orjson

from mailcore import events
from mailcore.events import Event
from mailcore.flow.bodies import Bodies
from mailcore.flow.parsed import Parsed
from mailcore.kit.clock import Clock
from mailcore.kit.errors import MailError
from mailcore.kit.guard import Answer, Blocked, GuardedClient
from mailcore.kit.log import logger
from mailcore.kit.seal import Keyring
from mailcore.store.webhook_queue import Claimed

log = logger(__name__)

MAX_BODY = 65_536
"""Octets of an answer that are read."""
MAX_RESPONSE = 4096
"""Octets of an answer that are kept."""
USER_AGENT = "Postroom-Webhooks/1"


@dataclass(frozen=True, slots=True)
class Result:
    outcome: str
    """`success` (2xx), `failed` (another answer), `unanswered`, `blocked` (not sent)."""
    http_status: int | None
    response: str
    wish: Literal["abort-message", "disable"] | None = None
    """What the endpoint said by the header `webhook-delivery`: no more attempts of this event, or nothing at all any more."""

    @property
    def success(self) -> bool:
        return self.outcome == "success"


class Poster:
    def __init__(
        self,
        client: GuardedClient,
        keyring: Keyring,
        clock: Clock,
        bodies: Bodies,
        parsed: Parsed,
        *,
        timeout_seconds: float,
    ) -> None:
        self._client = client
        self._keyring = keyring
        self._clock = clock
        self._bodies = bodies
        self._parsed = parsed
        self._timeout_seconds = timeout_seconds

    async def post(self, row: Claimed) -> Result:
        """Never raises: what cannot be posted is an attempt that failed, and says why."""
        try:
            if row.event is None:
                return Result("blocked", None, "The event is no longer kept.")
            content = await self._content(row, row.event)
            answer = await self._client.request(
                "POST",
                row.endpoint,
                headers=self._headers(row, content),
                content=content,
                deadline=self._timeout_seconds,
                max_body=MAX_BODY,
            )
        except Blocked as error:
            return Result("blocked", None, error.public)
        except MailError as error:
            return Result("unanswered", None, error.public)
        except Exception:
            log.exception("post failed", event_id=str(row.event_id), webhook_id=str(row.webhook_id))
            return Result("unanswered", None, "The event could not be posted.")
        # a redirect is an answer that is not 2xx: it is never followed
        outcome = "success" if 200 <= answer.status < 300 else "failed"
        return Result(outcome, answer.status, _text(answer), _wish(answer))

    async def _content(self, row: Claimed, event: Event) -> bytes:
        """Raises Unavailable."""
        subject = row.subject
        if event.type == events.ROUTED:
            return orjson.dumps(await self._parsed.payload(event, subject, row.raw))
        if row.raw is not None and subject is not None:
            subject = {**subject, "content": await self._bodies.of(*row.raw)}
        return events.body(event, subject)

    def _headers(self, row: Claimed, content: bytes) -> dict[str, str]:
        id_ = events.message_id(row.event_id, row.webhook_id)
        at = int(self._clock.now().timestamp())
        secrets = [self._keyring.open(sealed, "webhook") for sealed in row.secrets_sealed]
        signature = " ".join([events.sign(secret, id_, at, content) for secret in secrets])
        headers = {"Content-Type": "application/json", "User-Agent": USER_AGENT, "Accept": "*/*"}
        for family in ("svix", "webhook"):
            headers |= {f"{family}-id": id_, f"{family}-timestamp": str(at), f"{family}-signature": signature}
        # MailIt's: the endpoint's id, not the event's, and one signature, which is the newest secret's
        headers |= {
            "X-Webhook-ID": str(row.webhook_id),
            "X-Webhook-Timestamp": str(at),
            "X-Webhook-Signature": events.sign_hex(secrets[0], at, content),
        }
        return headers


def _wish(answer: Answer) -> Literal["abort-message", "disable"] | None:
    said = answer.headers.get("webhook-delivery", "").strip().lower()
    return "disable" if said == "disable" else "abort-message" if said == "abort-message" else None


def _text(answer: Answer) -> str:
    """The beginning of an answer, as it can be stored: Postgres keeps no NUL."""
    return answer.body[:MAX_RESPONSE].decode("utf-8", "replace").replace("\x00", "\ufffd")
