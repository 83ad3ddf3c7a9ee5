"""What providers post to us, signed as each of them signs: with keys of our own making."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.x509.oid import NameOID

import mailcore.providers
from mailcore import events as webhooks
from mailcore.providers.base import Post

FOLDER = Path(mailcore.providers.__file__).parent
"""Beside each vendor's code are its fixtures."""
NOW = 1_780_000_000.0
REFERENCE = "0190d0c47ea17c3b9f2a6c1de0f4b8a5"
TOPIC = "arn:aws:sns:us-east-1:123456789012:SES_Events"
CERTIFICATE_URL = "https://sns.us-east-1.amazonaws.com/SimpleNotificationService-0123456789abcdef.pem"
SECRET = webhooks.show_secret(b"resend's signing secret!")
EC_KEY = ec.generate_private_key(ec.SECP256R1())
RSA_KEY = rsa.generate_private_key(65537, 2048)
EC_PUBLIC = base64.b64encode(
    EC_KEY.public_key().public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
).decode()

SETTINGS: dict[str, dict[str, Any]] = {
    "resend": {"api_key": "re_key", "signing_secret": SECRET},
    "sendgrid": {"api_key": "SG.key", "verification_key": EC_PUBLIC},
    "mailgun": {"api_key": "mg-key-7f3a", "signing_secret": "mailgun's key"},
    "postmark": {"server_token": "pm-token-7f3a", "webhook_password": "a password of twenty"},
    "ses": {
        "region": "us-east-1",
        "access_key_id": "AKIDEXAMPLEEXAMPLE",
        "secret_access_key": "wJalrXUtnFEMI",
        "configuration_set": "ConfigSet",
        "topic_arn": TOPIC,
    },
    "cloudflare": {"account_id": "0123456789abcdef0123456789abcdef", "api_token": "cf-token-7f3a"},
}


def _certificate() -> bytes:
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "sns.amazonaws.com")])
    now = datetime.now(UTC)
    built = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(RSA_KEY.public_key())
        .serial_number(1)
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .sign(RSA_KEY, hashes.SHA256())
    )
    return built.public_bytes(serialization.Encoding.PEM)


CERTIFICATE = _certificate()
fetched: list[str] = []
"""By `fetch`."""


async def fetch(url: str) -> bytes:
    fetched.append(url)
    return CERTIFICATE


def signed_post(vendor: str, body: Any, *, at: float = NOW, id_: str = "1") -> Post:
    """As the vendor posts it; `id_` tells posts apart where the vendor numbers them."""
    stamp = str(int(at))
    if vendor == "resend":
        octets = json.dumps(body).encode()
        mac = webhooks.sign(webhooks.read_secret(SECRET), f"msg_{id_}", int(at), octets)
        return Post({"svix-id": f"msg_{id_}", "svix-timestamp": stamp, "svix-signature": mac}, octets)
    if vendor == "sendgrid":
        octets = json.dumps(body).encode()
        signature = EC_KEY.sign(stamp.encode() + octets, ec.ECDSA(hashes.SHA256()))
        return Post(
            {
                "x-twilio-email-event-webhook-timestamp": stamp,
                "x-twilio-email-event-webhook-signature": base64.b64encode(signature).decode(),
            },
            octets,
        )
    if vendor == "mailgun":
        mac = hmac.new(b"mailgun's key", f"{stamp}token-{id_}".encode(), hashlib.sha256).hexdigest()
        body = body | {"signature": {"timestamp": stamp, "token": f"token-{id_}", "signature": mac}}
        return Post({}, json.dumps(body).encode())
    if vendor == "postmark":
        login = base64.b64encode(b"postroom:a password of twenty").decode()
        return Post({"authorization": f"Basic {login}"}, json.dumps(body).encode())
    return sns({"Type": "Notification", "Message": json.dumps(body), "MessageId": f"19ba9823-{id_}"})


def sns(given: dict[str, str], *, version: str = "2", topic: str = TOPIC, url: str = CERTIFICATE_URL) -> Post:
    said = {"MessageId": "19ba9823", "TopicArn": topic, "Timestamp": "2026-11-21T15:00:00.000Z", **given}
    names = sorted(name for name in said if name != "SignatureVersion")
    text = "".join(f"{name}\n{said[name]}\n" for name in names)
    algorithm = hashes.SHA256() if version == "2" else hashes.SHA1()
    signature = RSA_KEY.sign(text.encode(), padding.PKCS1v15(), algorithm)
    said |= {"Signature": base64.b64encode(signature).decode(), "SignatureVersion": version, "SigningCertURL": url}
    return Post({"content-type": "text/plain; charset=UTF-8"}, json.dumps(said).encode())


def fixture(vendor: str, name: str) -> dict[str, Any]:
    """Of `answers` or `events`; empty where the vendor has none."""
    path = FOLDER / vendor / "fixtures" / f"{name}.json"
    found: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    return found
