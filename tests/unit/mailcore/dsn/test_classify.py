"""What refusals mean, in the words of servers that exist."""

from __future__ import annotations

import pytest

from mailcore.dsn.classify import classify, folded
from mailcore.dsn.rules import GAP, PRECISE, STRONG, VAGUE, WORDS, Category
from mailcore.smtp.reply import Reply


@pytest.mark.parametrize(
    "reply",
    [
        Reply(550, "<a@b.example>: Recipient address rejected: User unknown in virtual mailbox table", "5.1.1"),
        Reply(550, "The email account that you tried to reach does not exist. Please try double-checking", "5.1.1"),
        Reply(550, "RESOLVER.ADR.RecipNotFound; not found", "5.1.1"),
        Reply(550, "RESOLVER.ADR.RecipientNotFound; Recipient a@b.example not found by SMTP address lookup", "5.1.10"),
        Reply(556, "The domain accepts no mail (null MX)", "5.1.10"),
        Reply(553, "bad mailbox syntax", "5.1.3"),
        Reply(551, "has moved", "5.1.6"),
        Reply(550, "No such user here"),
        Reply(550, "5.x unknown recipient"),
        Reply(550, "mailbox not found"),
        Reply(550, "Sorry, no mailbox here by that name"),
        Reply(554, "delivery error: dd This user doesn't have an account; user not found"),
        Reply(550, "User unknown; blocked by policy", "5.1.1"),
    ],
    ids=str,
)
def test_nobody_there(reply: Reply) -> None:
    kind = classify(reply)
    assert (kind.sub_type, kind.hard) == ("NoEmail", True)


@pytest.mark.parametrize(
    ("reply", "sub_type"),
    [
        (Reply(450, "User unknown", "4.1.1"), "NoEmail"),
        (Reply(550, "no such domain", "5.1.2"), "NoEmail"),
        (Reply(550, "Host unknown"), "NoEmail"),
        (Reply(550, "account disabled", "5.2.1"), "NoEmail"),
        (Reply(550, "Requested action not taken: mailbox unavailable"), "NoEmail"),
        (Reply(552, "the mailbox is over quota", "5.2.2"), "MailboxFull"),
        (Reply(452, "mailbox full", "4.2.2"), "MailboxFull"),
        (Reply(552, "insufficient storage space"), "MailboxFull"),
        (Reply(552, "size exceeds", "5.3.4"), "MessageTooLarge"),
        (Reply(552, "Message size exceeds fixed limit"), "MessageTooLarge"),
        (Reply(554, "spam detected", "5.7.1"), "ContentRejected"),
        (Reply(554, "this message contains a virus"), "ContentRejected"),
        (Reply(552, "attachments of this file type are blocked for security", "5.7.1"), "AttachmentRejected"),
        (Reply(550, "executable attachment rejected"), "AttachmentRejected"),
        (Reply(550, "unauthenticated mail is not accepted due to DMARC policy", "5.7.26"), "General"),
        (
            Reply(550, "Access denied, sending domain does not meet the required authentication level", "5.7.515"),
            "General",
        ),
        (Reply(550, "IP listed at zen.spamhaus.org, see https://…", "5.7.1"), "General"),
        # a server that hides its dislike of us behind the recipient
        (Reply(550, "Rejected: your IP is on a block list", "5.1.1"), "General"),
        (Reply(550, "blocked by policy", "5.1.1"), "General"),
        (Reply(421, "try again later"), "General"),
        (Reply(550, "go away"), "General"),
        (Reply(555, "\ufffd\x01garbage"), "General"),
    ],
    ids=str,
)
def test_what_says_nothing_about_the_mailbox_suppresses_nobody(reply: Reply, sub_type: str) -> None:
    kind = classify(reply)
    assert (kind.sub_type, kind.hard) == (sub_type, False)


@pytest.mark.parametrize(
    ("category", "rule", "reply"),
    [
        # what servers of the large providers say
        (
            "hard",
            "no-mailbox",
            Reply(550, "The email account that you tried to reach does not exist. Please try\nNoSuchUser", "5.1.1"),
        ),
        ("hard", "no-mailbox", Reply(550, "Requested action not taken: mailbox unavailable", "5.1.1")),
        ("hard", "microsoft-edge", Reply(550, "Recipient address rejected: Access denied. AS(201806281)", "5.4.1")),
        (
            "hard",
            "nobody",
            Reply(554, "delivery error: dd This user doesn't have a yahoo.com account (a@yahoo.com) [0]"),
        ),
        (
            "hard",
            "nobody",
            Reply(550, "<a@b.example>: Recipient address rejected: User unknown in local recipient table"),
        ),
        ("hard", "nobody", Reply(550, "sorry, no mailbox here by that name (#5.1.1)")),
        ("hard", "nobody", Reply(550, "RecipientNotFound; Recipient not found by SMTP address lookup", "5.0.0")),
        ("recipient", "mailbox-disabled", Reply(550, "The email account that you tried to reach is disabled", "5.2.1")),
        ("recipient", "mailbox-full", Reply(452, "The email account that you tried to reach is over quota", "4.2.2")),
        ("recipient", "full", Reply(554, "mailbox is full; quota exceeded")),
        ("recipient", "closed", Reply(550, "This group only accepts mail from its members")),
        ("recipient", "list-closed", Reply(550, "RESOLVER.RST.RestrictedToRecipientsPermission", "5.7.133")),
        ("recipient", "nobody", Reply(550, "relay recipient table: User unknown", "5.7.1")),
        (
            "content",
            "spam",
            Reply(550, "Our system has detected that this message is likely unsolicited mail", "5.7.1"),
        ),
        (
            "content",
            "attachment",
            Reply(552, "blocked because its content presents a potential security issue", "5.7.0"),
        ),
        ("content", "message-length", Reply(552, "Your message exceeded Google's message size limits", "5.3.4")),
        ("content", "virus", Reply(554, "Virus found in your message")),
        ("content", "message-refused", Reply(554, "Rejected", "5.6.0")),
        (
            "policy",
            "authentication-failed",
            Reply(550, "This mail has been blocked because the sender is unauthenticated", "5.7.26"),
        ),
        ("policy", "authentication-failed", Reply(550, "does not meet the required authentication level", "5.7.515")),
        ("policy", "authentication", Reply(550, "no", "5.7.20")),
        ("policy", "greylisted", Reply(450, "Greylisted, see http://postgrey.schweikert.ch/help", "4.2.0")),
        ("policy", "rate", Reply(421, "Too many concurrent SMTP connections", "4.7.0")),
        ("policy", "sender-refused", Reply(550, "Sender address rejected: Domain not found")),
        ("policy", "sender-refused", Reply(553, "Domain of sender address does not exist", "5.1.8")),
        ("policy", "refused-by-policy", Reply(554, "Reject due to policy restrictions")),
        (
            "block",
            "list-spamhaus",
            Reply(554, "Service unavailable; Client host [192.0.2.1] blocked using zen.spamhaus.org", "5.7.1"),
        ),
        (
            "block",
            "microsoft-blocked-address",
            Reply(550, "messages from [192.0.2.1] weren't sent … part of their network (S3140)", "5.7.1"),
        ),
        (
            "block",
            "list-unnamed",
            Reply(550, "messages from 192.0.2.1 weren't sent. … is on our block list (S3150)", "5.7.1"),
        ),
        ("block", "microsoft-blocked-address", Reply(550, "Access denied, banned sending IP [192.0.2.1]", "5.7.606")),
        (
            "block",
            "google-reputation",
            Reply(421, "has detected an unusual rate of unsolicited mail originating from", "4.7.28"),
        ),
        (
            "block",
            "yahoo-deferred",
            Reply(421, "[TSS04] Messages from 192.0.2.1 temporarily deferred due to user complaints", "4.7.0"),
        ),
        ("block", "list-other", Reply(554, "blocked, see http://www.barracudacentral.org/reputation")),
        ("block", "list-hosts", Reply(554, "Helo command [a.example] blocked using dbl.spamhaus.org", "5.7.1")),
        ("domain", "list-domains", Reply(554, "Sender address [a@b.example] blocked using dbl.spamhaus.org", "5.7.1")),
        ("domain", "domain-reputation", Reply(550, "due to the very low reputation of the sending domain", "5.7.1")),
        (
            "domain",
            "domain-reputation",
            Reply(421, "unusual rate of unsolicited mail originating from your DKIM domain [b.example 35]", "4.7.28"),
        ),
        ("content", "list-links", Reply(550, "Message contains a URL listed by multi.surbl.org", "5.7.1")),
        (
            "recipient",
            "list-recipients",
            Reply(554, "Recipient address [a@b.example] blocked using l.example", "5.7.1"),
        ),
        (
            "infrastructure",
            "no-reverse-name",
            Reply(550, "The IP address sending this message does not have a PTR record", "5.7.25"),
        ),
        ("infrastructure", "relay-denied", Reply(554, "Relay access denied", "5.7.1")),
        ("infrastructure", "loop", Reply(554, "Too many hops", "5.4.6")),
        ("infrastructure", "system-full", Reply(452, "Insufficient system resources", "4.3.1")),
        ("infrastructure", "network", Reply(451, "no", "4.4.4")),
        ("infrastructure", "tls", Reply(530, "Must issue a STARTTLS command first", "5.7.0")),
        ("infrastructure", "mail-system", Reply(451, "Temporary local problem", "4.3.0")),
        ("soft", "reply-4", Reply(451, "come back tomorrow")),
        ("undetermined", "reply-5", Reply(554, "Transaction failed")),
    ],
    ids=lambda value: str(value)[:60],
)
def test_a_refusal_gets_a_category_and_the_rule_that_said_so(category: str, rule: str, reply: Reply) -> None:
    kind = classify(reply)
    assert (kind.category, kind.rule) == (category, rule)
    assert kind.hard == (category == "hard")


@pytest.mark.parametrize(
    "text",
    [
        "User unknown; your IP 192.0.2.1 is listed at zen.spamhaus.org",
        "blocked using bl.spamcop.net; no such user",
        "your host [192.0.2.1] is blacklisted: mailbox not found",
        "poor reputation: recipient does not exist",
        "550 banned sending IP, user unknown",
    ],
)
@pytest.mark.parametrize("code", [None, "5.1.1", "5.7.1", "5.0.0", "5.1.10"])
def test_our_own_address_on_a_list_suppresses_nobody(text: str, code: str | None) -> None:
    kind = classify(Reply(550, text, code))
    assert kind.category is Category.BLOCK
    assert not kind.hard


def test_an_address_in_the_words_says_nothing() -> None:
    assert classify(Reply(550, "<spamhaus@blacklist.example>: no such user", "5.1.1")).hard
    assert "@" not in folded("550 <a@b.example> <c@d.example>… who?")


def test_every_rule_can_decide() -> None:
    """Each by a phrase or a code of its own; a phrase that an earlier rule takes for itself would never be seen."""
    named = [rule.name for rule in (*STRONG, *PRECISE, *WORDS, *VAGUE)]
    assert len(named) == len(set(named))
    for rule in (*STRONG, *WORDS):
        said = [*rule.plain, *(f"{before} x {after}" for before, after in rule.gapped)]
        assert said, rule.name
        found = {classify(Reply(550, text)).rule for text in said}
        assert rule.name in found, rule.name
        for phrase in rule.plain:
            assert phrase == " ".join(phrase.lower().split())
            assert GAP.strip() not in phrase
    for rule in PRECISE:
        text = rule.plain[0] if rule.plain else "no"
        assert {classify(Reply(550, text, f"5.{code}")).rule for code in rule.codes} == {rule.name}
