"""Where a mail goes, from which address, and under which TLS policy, as the transport is told."""

from __future__ import annotations

from mailcore.store.contents import Content
from mailcore.transport import Destination, TlsPolicy
from outbound.placement import Source
from outbound.routes import Way
from outbound.security import tls_not_required


def destination(way: Way, source: Source, content: Content, octets: bytes, mails_per_connection: int) -> Destination:
    """`octets`: of the mail."""
    return Destination(
        way.site.key,
        way.hops,
        source.ip4,
        _tls(way, content, octets),
        credentials=way.credentials,
        helo=source.ehlo,
        mails_per_connection=mails_per_connection,
        source_ip6=source.ip6,
        lmtp=way.lmtp,
        requiretls=content.requiretls,
    )


def _tls(way: Way, content: Content, octets: bytes) -> TlsPolicy:
    if content.tls_required and not way.bind_tls:
        return TlsPolicy.REQUIRED
    if way.tls is TlsPolicy.OPPORTUNISTIC and tls_not_required(content, octets):
        return TlsPolicy.NOT_REQUIRED
    return way.tls
