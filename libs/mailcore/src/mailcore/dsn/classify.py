"""What a refusal says about the address: the public name of its kind, and whether nobody will ever read mail there.

The enhanced code decides (RFC 3463 §3); words decide where a server gives none, and overrule it in one case: a server that says
"user unknown" of a sender it does not like is not believed. Only what is about the mailbox itself is `hard`: a full mailbox, a
policy, a reputation, a size, a domain that did not resolve say nothing about whether the next mail will be read.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from mailcore.smtp.reply import Reply


@dataclass(frozen=True, slots=True)
class Kind:
    sub_type: str
    """As email.bounced names it (resend.md §10.4)."""
    hard: bool = False
    """Permanent, and about the mailbox: nothing more should be sent to the address."""


_NO_EMAIL = Kind("NoEmail", hard=True)
_NO_DOMAIN = Kind("NoEmail")
_FULL = Kind("MailboxFull")
_LARGE = Kind("MessageTooLarge")
_CONTENT = Kind("ContentRejected")
_ATTACHMENT = Kind("AttachmentRejected")
_GENERAL = Kind("General")

_CODES = {
    # RFC 3463 §3.2 to §3.8 and the registry of RFC 5248: subject.detail
    "1.1": _NO_EMAIL,  # bad destination mailbox address
    "1.2": _NO_DOMAIN,  # bad destination system address: a domain may come back
    "1.3": _NO_EMAIL,  # bad destination mailbox address syntax
    "1.6": _NO_EMAIL,  # mailbox has moved, no forwarding address
    "1.10": _NO_EMAIL,  # recipient address has null MX (RFC 7505)
    "2.1": Kind("NoEmail"),  # mailbox disabled: may be enabled again
    "2.2": _FULL,
    "2.3": _LARGE,
    "3.4": _LARGE,
    "6.0": _CONTENT,
    "6.1": _CONTENT,
    "7.1": _CONTENT,
}
_ATTACHMENT_WORDS = re.compile(r"(?i)\battachments?\b|file ?(?:type|extension|name)|executable")
_NOBODY_WORDS = re.compile(
    r"(?i)user unknown|unknown (?:user|recipient|mailbox|local part)|no such (?:user|recipient|mailbox|address)"
    r"|(?:user|recipient|mailbox|address|account)[^.;]{0,40} (?:not found|does ?n[o']t exist|not exist|unknown)"
    r"|does not exist|no mailbox (?:here )?by that name|invalid (?:recipient|mailbox)"
)
_POLICY_WORDS = re.compile(
    r"(?i)\bspam\b|\bblack ?list|\bblock(?:ed| ?list)|\blisted\b|\bdnsbl\b|\brbl\b|reputation|\bpolic(?:y|ies)\b|\bdmarc\b"
    r"|\bspf\b|\bdkim\b|unauthenticated|rate limit|too many|access denied|banned"
)
_WORDS = (
    (_NOBODY_WORDS, _NO_EMAIL),
    (re.compile(r"(?i)mailbox (?:is )?full|over ?quota|quota exceeded|insufficient (?:disk |storage )?space"), _FULL),
    (re.compile(r"(?i)too (?:large|big)|size limit|size exceeds|exceeds .*size"), _LARGE),
    (re.compile(r"(?i)mailbox unavailable"), Kind("NoEmail")),  # RFC 5321 §4.2.3: also "rejected for policy reasons"
    (re.compile(r"(?i)\bspam\b|\bvirus\b|content rejected"), _CONTENT),
)


def classify(reply: Reply) -> Kind:
    """Of a reply that refuses, temporarily or for good; only a permanent one is hard."""
    kind = _kind(reply)
    if not kind.hard:
        return kind
    doubtful = _POLICY_WORDS.search(reply.text) is not None and _NOBODY_WORDS.search(reply.text) is None
    if doubtful:
        return _CONTENT if reply.enhanced is None else _GENERAL
    return kind if reply.permanent else Kind(kind.sub_type)


def _kind(reply: Reply) -> Kind:
    if reply.enhanced:
        kind = _CODES.get(reply.enhanced.partition(".")[2], _GENERAL)
        return _ATTACHMENT if kind is _CONTENT and _ATTACHMENT_WORDS.search(reply.text) else kind
    found = next((kind for words, kind in _WORDS if words.search(reply.text)), _GENERAL)
    if found in (_GENERAL, _CONTENT) and reply.permanent and _ATTACHMENT_WORDS.search(reply.text):
        return _ATTACHMENT
    return found
