"""One more ARC set on a message that is passed on (RFC 8617 §5.1).

The message must be as it will leave: what is changed after sealing breaks the ARC-Message-Signature.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Sequence

from mailcore.dns.names import normalize_domain
from mailcore.kit.errors import Invalid, Unavailable
from mailcore.mailauth.arc.chain import MAX_SETS
from mailcore.mailauth.arc.validate import FAIL, Chain, seal_digest
from mailcore.mailauth.dkim.canonical import by_name, relaxed_body, relaxed_field, split_fields
from mailcore.mailauth.dkim.keys import SigningKey
from mailcore.mailauth.dkim.sign import EITHER, covered, folded, raw_signature

COVERED = (*EITHER, b"dkim-signature")
"""RFC 8617 §4.1.2: DKIM-Signature fields should be covered, ARC-Seal must not be."""
_RESULT = re.compile(r"[\x21-\x3a\x3c-\x7e][\x20-\x3a\x3c-\x7e]{0,800}\Z")
"""Printable ASCII without a semicolon, short enough for a line (RFC 5322 §2.1.1)."""
_FOLD = "\r\n "


def seal(
    head: bytes,
    body: bytes,
    chain: Chain,
    key: SigningKey,
    *,
    server: str,
    results: Sequence[str],
    now: int,
) -> bytes:
    """The three fields to put before `head`, each with its CRLF; empty where the chain takes no further set.

    chain    what `validate` found of the message as it came in
    server   our name in Authentication-Results (RFC 8601 §2.5)
    results  what we found, one a method: `spf=pass smtp.mailfrom=a@example.org`. ASCII without line ends and semicolons.
    now      seconds since 1970

    Raises Invalid: a header that is none, results that would break out of their field. Raises Unavailable for a chain that could
    not be judged just now: sealed as broken it would be broken for good.
    """
    if chain.temporary:
        raise Unavailable("The keys of an ARC chain cannot be had just now. Validate it again later.")
    instance = chain.highest + 1
    if chain.ended or instance > MAX_SETS:
        return b""
    found = _results(instance, server, results)
    names, fields = covered(by_name(split_fields(head)), COVERED)
    body_hash = base64.b64encode(hashlib.sha256(relaxed_body(body)).digest())
    made_by = b"i=%d; a=%b; d=%b;\r\n s=%b; t=%d;" % (
        *(instance, key.algorithm.encode(), key.domain.encode(), key.selector.encode(), now),
    )
    message = b"ARC-Message-Signature: %b c=relaxed/relaxed;\r\n h=%b;\r\n bh=%b;\r\n b=" % (
        *(made_by, names, body_hash),
    )
    digest = fields.copy()
    digest.update(relaxed_field(b"arc-message-signature", message))
    message += folded(raw_signature(key, digest.digest()))
    before = hashlib.sha256()
    if chain.status != FAIL:  # RFC 8617 §5.1.2: who seals a broken chain vouches for nothing before its own set
        for each in chain.sets:
            seal_digest(before, each.results, each.message.field, each.seal.field)
    sealed = b"ARC-Seal: %b cv=%b;\r\n b=" % (made_by, chain.status.encode())
    sealed += folded(raw_signature(key, seal_digest(before, found, message, sealed)))
    return b"%b\r\n%b\r\n%b\r\n" % (sealed, message, found)


def _results(instance: int, server: str, results: Sequence[str]) -> bytes:
    """The ARC-Authentication-Results field: anything in it that others had a hand in must not become a field of its own."""
    for each in results:
        if not _RESULT.match(each):
            raise Invalid(f"{each[:80]!a} is no result of authentication.")
    found = [normalize_domain(server), *(results or ["none"])]  # RFC 8601 §2.2: no-result
    return f"ARC-Authentication-Results: i={instance}; {(';' + _FOLD).join(found)}".encode()
