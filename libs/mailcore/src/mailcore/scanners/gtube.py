"""GTUBE, the text by which it is tried whether mail is looked at (SpamAssassin's, and the one that Mailbridge made of it).

It is found here too, so that a trial shows what becomes of spam whichever scanner is on, and where none is.
"""

from __future__ import annotations

from mailcore.mime.parse import Summary
from mailcore.scanners.base import Finding, Kind, Verdict

NAME = "gtube"

STRINGS = (
    "XJS*C4JDBQADN1.NSBN3*2IDNEN*GTUBE-STANDARD-ANTI-UBE-TEST-EMAIL*C.34X",
    "XJS*C4JDBQOVP6L3KBFR01.G5WUM8GPRP_45LPHDW863F_GW9E_2BAX_G.761D-103",
)
MAX_BYTES = 256 * 1024
"""Of a mail, that are looked at as they came; its text is looked at decoded."""
_BEGINNING = "XJS*C4JDBQ"


def look(raw: bytes, summary: Summary) -> Finding | None:
    if raw.find(_BEGINNING.encode(), 0, MAX_BYTES) < 0 and _BEGINNING not in summary.text:
        return None
    head = raw[:MAX_BYTES]
    if any(string in summary.text or string.encode() in head for string in STRINGS):
        detail = "It holds the text by which spam filters are tried."
        return Finding(NAME, Verdict.SPAM, tags=("GTUBE",), detail=detail, reason="gtube", kind=Kind.SPAM)
    return None
