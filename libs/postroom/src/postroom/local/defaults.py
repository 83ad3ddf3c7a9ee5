"""What a mode means: the defaults that the services of a local stack start with. A setting given explicitly wins.

catch   all outgoing mail goes to the catcher, the lab's DNS is the only name server, and listeners on loopback may be
        named as webhook, IMAP account, local mail server and MX: a developer's own programs are there.
live    mail goes to the MX of its recipients, names come from the system's resolver, private networks stay closed.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from . import postgres, valkey
from .folder import Folder, Secrets
from .ports import Ports

HOST = "127.0.0.1"
_LOOPBACK = '["127.0.0.0/8", "::1/128"]'


class Mode(StrEnum):
    CATCH = "catch"
    LIVE = "live"


@dataclass(frozen=True, slots=True)
class Service:
    """`name` is the process's, `module` what `python -m` runs, `setting` the group its settings stand under."""

    name: str
    module: str
    setting: str


SERVICES = (
    Service("api", "api", "API"),
    Service("inbound-smtp", "inbound_smtp", "INBOUND_SMTP"),
    Service("outbound", "outbound", "OUTBOUND"),
    Service("imap-sync", "imap_sync", "IMAP_SYNC"),
    Service("webhooks", "webhooks", "WEBHOOKS"),
)


def of_mode(mode: Mode, folder: Folder, ports: Ports, secrets: Secrets) -> dict[str, str]:
    cluster = f"{postgres.HOST}:{ports.postgres}/{postgres.DATABASE}"
    defaults = {
        "ENCRYPTION_KEY": secrets.POSTROOM_ENCRYPTION_KEY,
        "DATABASE__URL": f"postgresql://{postgres.LOGIN}:{secrets.POSTROOM_DATABASE_PASSWORD}@{cluster}",
        "DATABASE__MIGRATE_URL": f"postgresql://{postgres.SUPERUSER}:{secrets.POSTROOM_POSTGRES_PASSWORD}@{cluster}",
        "REDIS__URL": valkey.url(ports.redis, secrets.POSTROOM_REDIS_PASSWORD),
        "BLOB__URL": folder.blobs.as_uri(),
        "HTTP__HOST": HOST,
        "HTTP__PORT": str(ports.api),
        "HTTP__PUBLIC_URL": f"http://{HOST}:{ports.api}",
        "SMTP__HOST": HOST,
        "SMTP__MX_PORT": str(ports.mx),
        "SMTP__SUBMISSION_PORT": str(ports.submission),
        "SMTP__SUBMISSIONS_PORT": str(ports.submissions),
        "SMTP__TLS_CERT": str(folder.tls / "cert.pem"),
        "SMTP__TLS_KEY": str(folder.tls / "key.pem"),
        "OPS__HOST": HOST,
        "LOG__FORMAT": "json",
    }
    if mode is Mode.CATCH:
        defaults |= {
            "SMTP__HOSTNAME": "mail.postroom.test",
            "DOMAINS__MX_HOST": "mail.postroom.test",
            "OUTBOUND__EHLO_NAME": "mail.postroom.test",
            "OUTBOUND__ROUTE": "catch",
            "OUTBOUND__CATCH_HOST": f"{HOST}:{ports.catcher}",
            "OUTBOUND__CA_FILE": str(folder.tls / "ca.pem"),  # the catcher's, for mail that must stay under TLS
            "DNS__NAMESERVERS": f"{HOST}:{ports.dns}",
            "CATCH__DIR": str(folder.caught),
            "CATCH__DNS_DIR": str(folder.dns),
            "NETWORK__ALLOW__WEBHOOKS": _LOOPBACK,
            "NETWORK__ALLOW__IMAP": _LOOPBACK,
            "NETWORK__ALLOW__LOCAL_MAIL": _LOOPBACK,
            "NETWORK__ALLOW__MX": _LOOPBACK,
            "REPUTATION__PAUSE": "false",  # mail that bounces is tried out here, and nobody's reputation is at stake
        }
    else:
        defaults |= {"OUTBOUND__ROUTE": "mx"}
    return {f"POSTROOM_{name}": value for name, value in defaults.items()}
