"""What is handed in by the API cannot end a message on the wire: read where it arrives (reliability A2)."""

from __future__ import annotations

import base64
import json
import re
from typing import Any

import httpx
import pytest

import suites
from stack import Stack, wait_for

SMUGGLED = b"MAIL FROM:<evil@postroom.test>\r\nRCPT TO:<t14-victim@example.com>\r\nDATA\r\nSubject: smuggled\r\n\r\nx"


def _sequences() -> list[bytes]:
    found = json.loads((suites.suite("smtp-smuggling") / "eod_sequences.json").read_text())
    return [bytes.fromhex(each["hex"]) for each in found["must_not_end_data"]]


@pytest.mark.parametrize("where", ["text", "html", "attachment", "header"])
def test_a2_no_body_ends_the_message(stack: Stack, api: httpx.Client, where: str) -> None:
    sequences = _sequences()
    assert len(sequences) == 14
    to = f"t14-{where}@example.com"
    taken = 0
    for sequence in sequences:
        evil = b"begin" + sequence + SMUGGLED + sequence + b"end"
        mail: dict[str, Any] = {"from": "hello@postroom.test", "to": to, "subject": "s", "text": "t"}
        if where == "attachment":
            content = base64.b64encode(evil).decode()
            mail["attachments"] = [{"filename": "a.eml", "content": content, "content_type": "message/rfc822"}]
        elif where == "header":
            mail["headers"] = {"X-Evil": evil.decode("latin-1")}
        else:
            mail[where] = evil.decode("latin-1")
        answer = api.post("/emails", json=mail)
        assert answer.status_code in (200, 422), answer.text
        taken += answer.status_code == 200
    assert taken == {"attachment": 14, "header": 0}.get(where, 12), "two hold a NUL"
    caught = (
        wait_for(lambda: len(stack.caught(to=to)) >= taken and stack.caught(to=to), f"{taken} mails") if taken else []
    )
    assert len(caught) == taken
    for each in caught:
        raw = stack.raw(each)
        assert not re.search(rb"(?<!\r)\n|\r(?!\n)|\0", raw)
        assert (each.mail_from or "").endswith("postroom.test") and "evil" not in (each.mail_from or "")
    assert stack.caught(to="t14-victim@example.com") == []
