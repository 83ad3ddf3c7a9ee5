"""A peer's words, or a connection that broke, as an Outcome."""

from __future__ import annotations

from mailcore.smtp.outcome import Line, Outcome, Result, TlsSession
from mailcore.smtp.reply import Reply
from mailcore.transport.wire import Broken

_ENHANCED = {
    "connect-failed": "4.4.1",
    "connection-lost": "4.4.2",
    "reply-lost": "4.4.2",
    "timeout": "4.4.2",
    "tls-failed": "4.7.5",
    "tls-not-offered": "4.7.4",
    "tls-demanded": "4.7.10",
    "tls-off": "4.7.10",
    "starttls-injection": "4.7.5",
    "auth-without-tls": "4.7.11",
    "auth-not-offered": "4.7.0",
    "auth-refused": "4.7.8",
    "lease-lost": "4.3.0",
    "internal-error": "4.3.0",
    "requiretls-not-offered": "5.7.30",
    "dane-failed": "4.7.5",
    "mta-sts-failed": "4.7.5",
}
"""RFC 3463 codes for what we found out ourselves; 4.5.0, a protocol error, for the rest."""


TLS_OFF = (
    "the host takes mail under TLS only, which is off for it: set `tls` of the way out, or POSTROOM_OUTBOUND__SMARTHOST_TLS, "
    "to opportunistic or required"
)


def result_of(reply: Reply) -> Result:
    """The class of the last reply of a transaction (RFC 5321 §4.2.1). Unknown is temporary.

    552 to RCPT stays permanent: §4.5.3.1.10 reads it as 452 for a client that sent too many recipients; we send one.
    """
    if 200 <= reply.code < 300:
        return Result.DELIVERED
    return Result.BOUNCED if reply.permanent else Result.DEFERRED


def own_reply(rule: str, text: str) -> Reply:
    """Our words where the peer said none."""
    return Reply(451, text, _ENHANCED.get(rule, "4.5.0"))


def unsent(
    broken: Broken,
    *,
    mx_host: str | None,
    mx_ip: str | None,
    source_ip: str | None,
    tls: str | None = None,
    conversation: tuple[Line, ...] = (),
    tls_policy: str | None = None,
    sessions: tuple[TlsSession, ...] = (),
) -> Outcome:
    """Nothing of the mail's content left: it is simply tried again later.

    Unless no host promises what the mail requires: that is for the sender to know at once (RFC 8689 §4.2.1).
    """
    return Outcome(
        Result.FAILED if broken.rule == "requiretls-not-offered" else Result.DEFERRED,
        broken.reply or own_reply(broken.rule, broken.text),
        mx_host,
        mx_ip,
        source_ip,
        tls,
        broken.rule,
        conversation,
        False,
        tls_policy=tls_policy,
        sessions=sessions,
    )
