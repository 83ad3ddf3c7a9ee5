"""Of a reply, what its writer wrote."""

from __future__ import annotations

import pytest

from mailcore.mime.replies import stripped

OWN = "That is fine.\n\nJane"
QUOTE = "> Is that fine?\n> Bob"


@pytest.mark.parametrize(
    "text",
    [
        f"{OWN}\n\nOn Mon, Nov 2, 2026 at 10:00 AM Bob <b@x.test> wrote:\n{QUOTE}",
        f"{OWN}\n\nOn Mon, Nov 2, 2026 at 10:00 AM Bob Builder\n<bob@example.com> wrote:\n\n{QUOTE}",
        f"{OWN}\n\nAm 02.11.26 um 10:00 schrieb Bob:\n{QUOTE}",
        f"{OWN}\n\nLe lun. 2 nov. 2026 à 10:00, Bob <b@x.test> a écrit :\n{QUOTE}",
        f"{OWN}\n\nEl lun, 2 nov 2026 a las 10:00, Bob (<b@x.test>) escribió:\n{QUOTE}",
        f"{OWN}\n\n-----Original Message-----\nFrom: Bob\nSent: today\nIs that fine?",
        f"{OWN}\n\n-------- Ursprüngliche Nachricht --------\nVon: Bob\n\nIs that fine?",
        f"{OWN}\n\n________________________________\nFrom: Bob <b@x.test>\nSent: Monday\nTo: Jane\nSubject: Re: x\n\nIs that fine?",
        f"{OWN}\n\n*Von:* Bob <b@x.test>\n*Gesendet:* Montag\n*An:* Jane\n*Betreff:* x\n\nIs that fine?",
        f"{OWN}\n\n-- \nJane Doe\nSender Ltd",
        f"{OWN}\n\nSent from my iPhone",
        f"{OWN}\n\nSent from my iPhone\n\nOn 2 Nov 2026, at 10:00, Bob <b@x.test> wrote:\n\n{QUOTE}",
        f"{OWN}\r\n\r\nOn Mon, Bob wrote:\r\n> Is that fine?\r\n",
        f"On Mon, Bob wrote:\n{QUOTE}\n\n{OWN}",
        OWN,
    ],
)
def test_only_the_new_is_left(text: str) -> None:
    assert stripped(text) == OWN


def test_answers_between_quoted_lines_stay() -> None:
    text = "On Mon, Bob wrote:\n> One?\n\nYes.\n\n> Two?\n\nNo.\n"
    assert stripped(text) == "Yes.\n\n\nNo."


@pytest.mark.parametrize(
    "text",
    [
        "On reflection: what I wrote: nothing of that holds.\nFrom: here on it gets better.",
        "He said that, and she wrote:\nthe end.",
        "> all of it is quoted",
        "",
        "From: the beginning",
        "a -- b",
    ],
)
def test_what_only_looks_like_a_quotation_stays(text: str) -> None:
    assert stripped(text) == text


@pytest.mark.parametrize("line", ["-" * 50, "On " * 50, "_" * 100, "From: " * 20, "On x wrote:", "> " * 50])
def test_a_long_text_of_what_begins_quotations_is_read_in_one_pass(line: str) -> None:
    """A look back or ahead that grew with the text would take minutes."""
    assert isinstance(stripped(f"{line}\n" * 20_000), str)
