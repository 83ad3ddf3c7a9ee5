"""What refusals mean, in the words of servers that exist."""

from __future__ import annotations

import pytest

from mailcore.dsn.classify import classify
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
        (Reply(550, "IP listed at zen.spamhaus.org, see https://…", "5.7.1"), "ContentRejected"),
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
