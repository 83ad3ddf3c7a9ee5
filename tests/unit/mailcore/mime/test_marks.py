"""Verdicts in headers: our fields and others', forged ones gone, a tag in the subject, nothing but the header touched."""

from __future__ import annotations

import re

import pytest

from mailcore.mime.marks import MAX_HEADER, TAG, Verdict, marks, tagged, without_marks
from mailcore.mime.text import decode_header

TAG_ = "[SPAM]"
BODY = b"\r\nSubject: not this one\r\nX-Spam-Flag: NO\r\n\r\nbody \xff\x00\r\n"


def fields(head: str) -> dict[str, str]:
    return dict(line.split(": ", 1) for line in head.splitlines())


def test_spam_carries_our_fields_and_where_asked_those_of_others() -> None:
    verdict = Verdict("spam", "gtube", 999.7, 9, confirmed=True, scanners=("spamd", "ai"))
    assert fields(marks(verdict)) == {
        "X-Postroom-Verdict": "spam",
        "X-Postroom-Reason": "gtube",
        "X-Postroom-Score": "999.7",
        "X-Postroom-Probability": "9",
        "X-Postroom-Scanners": "spamd ai",
    }
    told = fields(marks(verdict, compatible=True))
    assert {name: told[name] for name in told if not name.startswith("X-Postroom-")} == {
        "X-Mailbridge-Reason": "gtube",
        "X-Mailbridge-PS": "9",
        "X-Mailbridge-SpamAssassin-Score": "999.7",
        "X-Spam-Flag": "YES",
        "X-Spam-Status": "Yes",
        "X-MS-Exchange-Organization-SCL": "9",
        "X-Forefront-Antispam-Report": "SCL:9;",
        "X-Microsoft-Antispam": "BCL:9;PCL:8;SCL:9;",
        "X-MS-Exchange-Organization-BypassSpamFiltering": "0",
        "X-AI-Confirmed-Spam": "YES",
    }


def test_what_is_no_spam_says_so_and_has_no_probability_nobody_gave() -> None:
    told = fields(marks(Verdict("clean", "", -1.24), compatible=True))
    assert told == {
        "X-Postroom-Verdict": "clean",
        "X-Postroom-Reason": "not_spam",
        "X-Postroom-Score": "-1.2",
        "X-Mailbridge-Reason": "not_spam",
        "X-Mailbridge-SpamAssassin-Score": "-1.2",
        "X-Spam-Flag": "NO",
        "X-Spam-Status": "No",
        "X-MS-Exchange-Organization-SCL": "1",
    }


def test_the_level_of_spam_can_be_set() -> None:
    told = fields(marks(Verdict("spam"), compatible=True, scl=6))
    assert told["X-MS-Exchange-Organization-SCL"] == "6" and told["X-Microsoft-Antispam"] == "BCL:9;PCL:8;SCL:6;"


@pytest.mark.parametrize(
    ("reason", "shown"),
    [
        ("Phishing!", "phishing"),
        ("a b\r\nX-Injected: yes", "a_b_x_injected"),
        ("one two three four five", "one_two_three_four"),
        ("Ünïcode", "n_code"),
        ("", "spam"),
        ("é" * 500, "spam"),
        ("a" * 500, "a" * 60),
    ],
    ids=["plain", "injection", "long", "letters", "empty", "nothing left", "endless"],
)
def test_a_reason_is_four_harmless_words(reason: str, shown: str) -> None:
    told = marks(Verdict("spam", reason, scanners=("sp\r\namd",)))
    assert f"X-Postroom-Reason: {shown}\r\n" in told
    assert told.count("\r\n") == 3 and told.isascii()


FORGED = (
    b"From: a@x.example\r\nx-postroom-verdict: clean\r\nX-Spam-Flag : NO\r\nX-SPAM-STATUS: No,\r\n\thits=0\r\n tests=none\r\n"
    b"X-MS-Exchange-Organization-SCL: -1\r\nX-Mailbridge-PS: 0\r\nX-Postroom-Anything: 1\r\nX-Spammer: kept\r\nSubject: hi\r\n"
)


def test_a_senders_own_marks_go() -> None:
    assert (
        without_marks(FORGED + BODY, others=True) == b"From: a@x.example\r\nX-Spammer: kept\r\nSubject: hi\r\n" + BODY
    )


def test_those_of_others_stay_where_they_are_not_ours_to_write() -> None:
    left = without_marks(FORGED + BODY, others=False)
    assert b"postroom" not in left.lower() and b"X-Spam-Flag : NO" in left and left.endswith(BODY)


def test_a_mail_without_marks_is_the_same_object() -> None:
    raw = b"From: a@x.example\r\n" + BODY
    assert without_marks(raw, others=True) is raw


SUBJECTS = {
    "plain": (b"Subject: hello\r\n", b"Subject: [SPAM] hello\r\n"),
    "no blank": (b"Subject:hello\r\n", b"Subject: [SPAM] hello\r\n"),
    "name as written": (b"sUBJECT : hello\r\n", b"sUBJECT : [SPAM] hello\r\n"),
    "empty": (b"Subject:\r\n", b"Subject: [SPAM]\r\n"),
    "blank": (b"Subject: \r\n", b"Subject: [SPAM]\r\n"),
    "encoded": (b"Subject: =?utf-8?B?R3LDvMOfZQ==?=\r\n", b"Subject: [SPAM] =?utf-8?B?R3LDvMOfZQ==?=\r\n"),
    "folded": (
        b"Subject: =?utf-8?q?Gr=C3=BC=C3=9Fe?=\r\n =?utf-8?q?_aus?=\r\n",
        b"Subject: [SPAM] =?utf-8?q?Gr=C3=BC=C3=9Fe?=\r\n =?utf-8?q?_aus?=\r\n",
    ),
    "begins in the next line": (b"Subject:\r\n hello\r\n", b"Subject: [SPAM]\r\n hello\r\n"),
    "8 bit": (b"Subject: Gr\xfc\xdfe\r\n", b"Subject: [SPAM] Gr\xfc\xdfe\r\n"),
    "long": (b"Subject: " + b"x" * 70 + b"\r\n", b"Subject: [SPAM]\r\n " + b"x" * 70 + b"\r\n"),
    "answer": (b"Subject: Re: [SPAM] hello\r\n", b"Subject: [SPAM] Re: [SPAM] hello\r\n"),
    "two": (b"Subject: a\r\nSubject: b\r\n", b"Subject: [SPAM] a\r\nSubject: [SPAM] b\r\n"),
    "bare LF": (b"Subject: a\n b\n", b"Subject: [SPAM] a\n b\n"),
    "none": (b"From: a@x.example\r\n", b"From: a@x.example\r\nSubject: [SPAM]\r\n"),
    "begins with a continuation": (b" odd\r\n", b" odd\r\nSubject: [SPAM]\r\n"),
}


@pytest.mark.parametrize("case", SUBJECTS)
def test_a_tag_stands_before_a_subject(case: str) -> None:
    before, after = SUBJECTS[case]
    assert tagged(before + BODY, TAG_) == after + BODY
    assert tagged(after + BODY, TAG_) == after + BODY, "twice is once"


@pytest.mark.parametrize(
    "subject",
    [
        b"Subject: =?utf-8?B?W1NQQU1dIGhlbGxv?=\r\n",
        b"Subject: =?us-ascii?q?=5BSP?=\r\n =?us-ascii?q?AM=5D?= hello\r\n",
        b"Subject:\r\n [SPAM]\r\n hello\r\n",
        b"Subject: [spam] hello\r\n",
    ],
    ids=["base64", "over two words", "in the next line", "small letters"],
)
def test_a_subject_that_is_tagged_is_not_tagged_again_however_it_is_written(subject: bytes) -> None:
    assert tagged(subject + BODY, TAG_) == subject + BODY


def test_an_encoded_subject_still_reads_as_it_did() -> None:
    value = tagged(b"Subject: =?utf-8?q?Gr=C3=BC=C3=9Fe?=\r\n\r\n", TAG_).partition(b":")[2].strip()
    assert decode_header(value) == "[SPAM] Grüße"


@pytest.mark.parametrize("raw", [b"", b"\r\n", b"\r\nbody", b"\n", b"no header", b"From: x"], ids=repr)
def test_mails_that_are_hardly_mails(raw: bytes) -> None:
    assert b"Subject: [SPAM]\r\n" in tagged(raw, TAG_)
    without_marks(raw, others=True)


def test_a_header_without_end_is_looked_at_up_to_a_limit() -> None:
    raw = b"a: b\n" * (2 * MAX_HEADER // 5)
    assert len(tagged(raw, TAG_)) == len(raw) + len(b"Subject: [SPAM]\r\n")


@pytest.mark.parametrize("tag", ["[SPAM]", "***SPAM***", "x", "a b"])
def test_tags(tag: str) -> None:
    assert re.fullmatch(TAG, tag)


@pytest.mark.parametrize("tag", ["", " [SPAM]", "[SPAM] ", "[SP\nAM]", "Späm", "=?utf-8?q?x?=", "x" * 41])
def test_what_is_no_tag(tag: str) -> None:
    assert re.fullmatch(TAG, tag) is None
