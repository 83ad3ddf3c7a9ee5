"""What SES publishes, as SNS posts it: signed with a certificate of Amazon's, for the one topic that is ours.

The first post asks whether we want the topic, and is confirmed by a request to Amazon.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from urllib.parse import urlsplit

import orjson
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.hashes import SHA1, SHA256
from cryptography.x509 import load_pem_x509_certificate

from mailcore.providers.base import (
    REFERENCE,
    Event,
    Fetch,
    Forged,
    Kind,
    Post,
    object_of,
    objects_of,
    reply_of,
    same,
    strings_of,
    text_of,
)
from mailcore.smtp.reply import Reply

_AMAZON = re.compile(r"sns\.[a-z0-9-]{1,40}\.amazonaws\.com(\.cn)?")
_COVERED = {
    "Notification": ("Message", "MessageId", "Subject", "Timestamp", "TopicArn", "Type"),
    "SubscriptionConfirmation": ("Message", "MessageId", "SubscribeURL", "Timestamp", "Token", "TopicArn", "Type"),
}
_ON_ITS_LIST = ("Suppressed", "OnAccountSuppressionList", "UnsubscribedRecipient")
MAX_CERTIFICATES = 20


@dataclass(frozen=True, slots=True)
class SesEvents:
    topic_arn: str
    certificates: dict[str, rsa.RSAPublicKey] = field(default_factory=dict, repr=False)
    """By URL, once fetched."""

    async def read(self, post: Post, *, now: float, fetch: Fetch) -> list[Event]:
        said = {name: value for name, value in object_of(post.json()).items() if isinstance(value, str)}
        await self._verify(said, fetch)
        if said["Type"] == "SubscriptionConfirmation":
            await fetch(_of_amazon(said.get("SubscribeURL", "")))
            return []
        try:
            record = object_of(orjson.loads(said["Message"]))
        except orjson.JSONDecodeError:
            return []  # SNS greets a new topic with words
        mail = object_of(record.get("mail"))
        named = object_of(mail.get("tags")).get(REFERENCE)
        reference = text_of(named[0]) if isinstance(named, list) and named else ""
        if not reference:
            return []
        return [
            Event(f"{said['MessageId']}:{recipient}", kind, reference, recipient, reply, unsure)
            for kind, recipient, reply, unsure in _outcomes(record, mail)
        ]

    async def _verify(self, said: dict[str, str], fetch: Fetch) -> None:
        names = _COVERED.get(said.get("Type", ""))
        if names is None or not same(said.get("TopicArn", ""), self.topic_arn):
            raise Forged("This is not a post of the SNS topic that this way is set to.")
        if said.get("SignatureVersion") not in ("1", "2"):
            raise Forged("The SignatureVersion is not known.")
        text = "".join(f"{name}\n{said[name]}\n" for name in names if name in said)
        try:
            signature = base64.b64decode(said.get("Signature", ""), validate=True)
            key = await self._key(_of_amazon(said.get("SigningCertURL", "")), fetch)
            algorithm = SHA256() if said["SignatureVersion"] == "2" else SHA1()  # noqa: S303 - Amazon's choice in version 1
            key.verify(signature, text.encode("utf-8", "surrogateescape"), PKCS1v15(), algorithm)
        except (InvalidSignature, binascii.Error):
            raise Forged("The signature is wrong.") from None

    async def _key(self, url: str, fetch: Fetch) -> rsa.RSAPublicKey:
        if url not in self.certificates:
            try:
                key = load_pem_x509_certificate(await fetch(url)).public_key()
            except ValueError:
                key = None
            if not isinstance(key, rsa.RSAPublicKey):
                raise Forged("The certificate cannot be read.")
            if len(self.certificates) >= MAX_CERTIFICATES:
                self.certificates.clear()
            self.certificates[url] = key
        return self.certificates[url]


def _of_amazon(url: str) -> str:
    """Raises Forged: whoever names another host would have us believe his own certificate."""
    try:
        parts = urlsplit(url)
    except ValueError:
        parts = urlsplit("")
    if parts.scheme != "https" or not _AMAZON.fullmatch(parts.netloc):
        raise Forged("The post names a host that is not Amazon's.")
    return url


def _outcomes(record: dict[str, object], mail: dict[str, object]) -> Iterator[tuple[Kind, str, Reply | None, bool]]:
    """The last: whether it may be another recipient's."""
    match record.get("eventType") or record.get("notificationType"):
        case "Delivery":
            for recipient in strings_of(object_of(record.get("delivery")).get("recipients")):
                yield Kind.DELIVERED, recipient, None, False
        case "Bounce":
            bounce = object_of(record.get("bounce"))
            listed = bounce.get("bounceSubType") in _ON_ITS_LIST
            permanent = bounce.get("bounceType") == "Permanent"
            for recipient, about in _named(bounce.get("bouncedRecipients")):
                words = text_of(about.get("diagnosticCode")) or text_of(bounce.get("bounceSubType"))
                reply = reply_of(words, permanent=permanent)
                yield Kind.SUPPRESSED if listed else Kind.BOUNCED, recipient, reply, False
        case "Complaint":
            # most providers of mailboxes do not say who complained: these are all of the mail's who have theirs there
            complained = _named(object_of(record.get("complaint")).get("complainedRecipients"))
            for recipient, _ in complained:
                yield Kind.COMPLAINED, recipient, None, len(complained) > 1
        case "DeliveryDelay":
            for recipient, about in _named(object_of(record.get("deliveryDelay")).get("delayedRecipients")):
                reply = reply_of(text_of(about.get("diagnosticCode")), permanent=False)
                yield Kind.DELAYED, recipient, reply, False
        case "Reject":
            words = text_of(object_of(record.get("reject")).get("reason"))
            for recipient in strings_of(mail.get("destination")):
                yield Kind.FAILED, recipient, reply_of(words, permanent=True), False


def _named(found: object) -> list[tuple[str, dict[str, object]]]:
    return [(address, each) for each in objects_of(found) if (address := text_of(each.get("emailAddress")))]
