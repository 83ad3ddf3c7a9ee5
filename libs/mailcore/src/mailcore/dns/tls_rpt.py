"""Where a domain wants to be told what TLS with its mail hosts came to: the TXT record at `_smtp._tls.<domain>` (RFC 8460 §3)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from urllib.parse import unquote

RECORD_PREFIX = "_smtp._tls."
MAX_URIS = 5
"""That a report is sent to; the others are left out."""
MAX_URI = 1_000

_RECORD = re.compile(r"v=TLSRPTv1[ \t]*;[ \t]*(.*)\Z", re.DOTALL)


def read_record(texts: Sequence[str]) -> tuple[str, ...]:
    """`mailto:` and `https:` URIs, in their order; empty: no reports are wanted (RFC 8460 §3: several records are as none)."""
    found = [match[1] for text in texts if (match := _RECORD.match(text))]
    if len(found) != 1:
        return ()
    for field in found[0].split(";"):
        name, equals, value = field.strip(" \t").partition("=")
        if name.rstrip(" \t") == "rua" and equals:
            uris = [uri.strip(" \t") for uri in value.split(",")]
            known = [uri for uri in uris if uri.lower().startswith(("mailto:", "https:")) and len(uri) <= MAX_URI]
            return tuple(dict.fromkeys(known))[:MAX_URIS]
    return ()


def mail_address(uri: str) -> str | None:
    """The address of a `mailto:` URI, without its fields (RFC 6068 §2); None for another one. Not checked."""
    scheme, _, rest = uri.partition(":")
    return unquote(rest.partition("?")[0]) if scheme.lower() == "mailto" else None
