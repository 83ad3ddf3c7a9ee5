"""Opens, clicks and unsubscribing: what is put into a mail before it is signed.

An email's own switch goes before its domain's. What cannot be tracked is sent as it is: tracking never keeps a mail from leaving.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from mailcore.kit.log import logger
from mailcore.mime.rewrite import Leaf, field_name, field_value, rewrite, split_fields
from mailcore.mime.tracking import UNSUBSCRIBE, Tracking, track, unsubscribe_token
from mailcore.smtp.address import parse_mailbox
from mailcore.store.contents import Content

log = logger(__name__)

PLACE = "{{{RESEND_UNSUBSCRIBE_URL}}}"
_URL = re.compile(r"<([^<>]*)>")
_SIGNED = (b"dkim-signature", b"arc-message-signature")


@dataclass(frozen=True, slots=True)
class Tracker:
    url: str
    """Scheme and host for domains without a verified tracking subdomain."""
    key: bytes

    def of(self, content: Content) -> Tracking | None:
        """What holds for this email; None: nothing is tracked."""
        if not (content.track_opens or content.track_clicks):
            return None
        return Tracking(self.base(content), self.key, content.track_opens, content.track_clicks)

    def base(self, content: Content) -> str:
        return self.url.rstrip("/") if content.tracking_host is None else f"https://{content.tracking_host}"


def with_unsubscribe(
    tracker: Tracker, content: Content, html: str | None, text: str | None
) -> tuple[str | None, str | None, dict[str, str]]:
    """Html, text and headers with the recipient's own unsubscribe URL where they ask for it by PLACE; a broadcast has it in its
    header without asking.

    In List-Unsubscribe it brings List-Unsubscribe-Post with it (RFC 8058 §3.1). A mail to several has one text for all: what one
    of them could unsubscribe another by is left out of its header, and its text stays.
    """
    field = next((name for name in content.headers if name.lower() == "list-unsubscribe"), None)
    asked = field is not None and PLACE in content.headers[field]
    if field is None and content.broadcast and content.alone:
        # the signature covers both (RFC 8058 §4): mailauth.dkim.sign lists them
        field, asked = "List-Unsubscribe", True
        content = content._replace(headers={**content.headers, field: f"<{PLACE}>"})
    if not asked and not any(part and PLACE in part for part in (html, text)):
        return html, text, content.headers
    headers = dict(content.headers)
    if not content.alone:
        if asked and field is not None:
            del headers[field]
        return html, text, headers
    recipient = str(parse_mailbox(content.to[0]).address)
    token = unsubscribe_token(tracker.key, content.org_id, recipient, email_id=content.id)
    url = f"{tracker.base(content)}{UNSUBSCRIBE}?token={token}"
    if asked and field is not None:
        headers[field] = headers[field].replace(PLACE, url)
        if not any(name.lower() == "list-unsubscribe-post" for name in headers):
            headers["List-Unsubscribe-Post"] = "List-Unsubscribe=One-Click"
    return html and html.replace(PLACE, url), text and text.replace(PLACE, url), headers


def tracked_html(html: str, content: Content, tracking: Tracking) -> str:
    try:
        leave = [
            url
            for name, value in content.headers.items()
            if name.lower() == "list-unsubscribe"
            for url in _URL.findall(value)
        ]
        return track(html, tracking, content.org_id, content.id, leave=leave)
    except Exception as error:
        log.error("an email is sent without tracking", email_id=str(content.id), exc_info=error)
        return html


def tracked_raw(raw: bytes, content: Content, tracking: Tracking) -> bytes:
    """A message that was handed in whole: its html that is there to be read. What somebody has signed stays as it is."""
    try:
        fields = split_fields(raw[: raw.find(b"\r\n\r\n") + 2])
        if any(field_name(field) in _SIGNED for field in fields):
            return raw
        leave = [
            url
            for field in fields
            if field_name(field) == b"list-unsubscribe"
            for url in _URL.findall(field_value(field).decode("ascii", "replace"))
        ]

        def change(leaf: Leaf) -> str | None:
            if leaf.sealed or not leaf.is_body or leaf.content_type != "text/html":
                return None
            html = leaf.text()
            if "\ufffd" in html:  # it is not in its charset: who reads it may know better than we do
                return None
            new = track(html, tracking, content.org_id, content.id, leave=leave)
            return None if new == html else new

        return rewrite(raw, change)
    except Exception as error:
        log.error("a message is sent without tracking", email_id=str(content.id), exc_info=error)
        return raw
