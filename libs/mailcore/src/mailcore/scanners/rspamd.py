"""rspamd by HTTP: POST /checkv2, what is known of the envelope in header fields; in the answer an action and its symbols, as JSON.

Its own thresholds count (`actions` of its configuration): `reject`, `add header` and `rewrite subject` are spam, `greylist` and
`soft reject` leave it unsure.
"""

from __future__ import annotations

from typing import Any

import orjson
from pydantic import SecretStr

from mailcore.kit.errors import Unavailable
from mailcore.kit.guard import Answer, GuardedClient
from mailcore.scanners.base import Facts, Finding, Kind, Verdict, nameless, text
from mailcore.scanners.wire import MAX_ANSWER

URL = "http://127.0.0.1:11333"
MAX_BYTES = 10 * 1024 * 1024
_MAX_RECIPIENTS = 100
_VERDICTS = {
    "no action": Verdict.CLEAN,
    "greylist": Verdict.UNSURE,
    "soft reject": Verdict.UNSURE,
    "rewrite subject": Verdict.SPAM,
    "add header": Verdict.SPAM,
    "reject": Verdict.SPAM,
    "quarantine": Verdict.SPAM,
    "discard": Verdict.SPAM,
}


class Rspamd:
    kind = Kind.SPAM

    def __init__(
        self,
        client: GuardedClient,
        url: str = URL,
        *,
        password: SecretStr | None = None,
        controller: str = "",
        seconds: float = 10.0,
        max_bytes: int = MAX_BYTES,
        name: str = "rspamd",
    ) -> None:
        """`controller`: the address of its controller worker, by which it learns; empty: it does not."""
        self.name = name
        self.seconds = seconds
        self.max_bytes = max_bytes
        self._client = client
        self._url = url.rstrip("/")
        self._controller = controller.rstrip("/")
        self._password = password

    async def scan(self, raw: bytes, facts: Facts) -> Finding:
        """Raises Unavailable."""
        answer = await self._post(f"{self._url}/checkv2", raw, _envelope(facts))
        said = _json(answer)
        if answer.status != 200 or not isinstance(said, dict):
            raise Unavailable(f"rspamd answers {answer.status}.")
        action = str(said.get("action"))
        if said.get("is_skipped") and action == "no action":
            return Finding(self.name, Verdict.SKIPPED, detail="Its settings say that it does not look at such mail.")
        verdict = _VERDICTS.get(action)
        if verdict is None:
            raise Unavailable(f"rspamd answers with an action that is not known: {text(action, 40)}.")
        score, symbols = _number(said.get("score")), said.get("symbols")
        tags = tuple(map(str, symbols)) if isinstance(symbols, dict) else ()
        required = _number(said.get("required_score"))
        of = f", of the {required:g} at which it rejects" if required is not None else ""
        detail = f"{action}: {0 if score is None else score:g} points{of}."
        reason = "gtube" if "GTUBE" in tags else ""
        return Finding(self.name, verdict, score, tags, detail, reason).clean()

    @property
    def learns(self) -> bool:
        return bool(self._controller)

    async def learn(self, raw: bytes, *, spam: bool) -> bool:
        """Raises Unavailable."""
        if not self._controller:
            raise Unavailable("Set POSTROOM_SCANNERS__RSPAMD_CONTROLLER to the address of its controller.")
        answer = await self._post(f"{self._controller}/{'learnspam' if spam else 'learnham'}", raw, {})
        if answer.status == 208:  # it has learned this mail before
            return False
        if answer.status != 200:
            said = _json(answer)
            words = text(str(said.get("error", "")), 200) if isinstance(said, dict) else ""
            if "already learned" in words:  # some versions do not say it by their status
                return False
            raise Unavailable(f"rspamd answers {answer.status} {words}".rstrip() + ".")
        return True

    async def close(self) -> None:
        await self._client.close()

    async def _post(self, url: str, raw: bytes, headers: dict[str, str]) -> Answer:
        if self._password is not None and self._password.get_secret_value():
            headers["Password"] = self._password.get_secret_value()
        try:
            return await self._client.request(
                "POST", url, headers=headers, content=raw, deadline=self.seconds, max_body=MAX_ANSWER
            )
        except Unavailable as error:
            raise Unavailable(nameless(error.public, url, "rspamd")) from error


def _envelope(facts: Facts) -> dict[str, str]:
    told = {
        "IP": (facts.client_ip or "").partition("%")[0],
        "Helo": facts.helo,
        "From": facts.mail_from,
        "Rcpt": ",".join(facts.rcpt_to[:_MAX_RECIPIENTS]),
        "Queue-Id": facts.id,
        "MTA-Name": facts.hostname,
    }
    return {name: clean for name, value in told.items() if (clean := _ascii(value))}


def _ascii(value: str) -> str:
    return text(value, 8_000).encode("ascii", "replace").decode()


def _json(answer: Answer) -> Any:
    if answer.truncated:
        raise Unavailable("rspamd says more than can be meant.")
    try:
        return orjson.loads(answer.body)
    except orjson.JSONDecodeError:
        return None


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None
