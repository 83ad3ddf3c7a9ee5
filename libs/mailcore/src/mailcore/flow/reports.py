"""What others report about mail that we sent, out of mail that came to an ordinary address: each kind to its reader.

TLS reports (flow.tls_reports), DMARC reports (flow.dmarc_reports), delivery reports and complaints (flow.came_back). The mail
itself goes its way besides: somebody may want to read it.
"""

from __future__ import annotations

from typing import Any

from mailcore.dsn import dmarc_report, tls_report
from mailcore.flow import dmarc_reports, tls_reports
from mailcore.flow.came_back import CameBack
from mailcore.flow.dmarc_reports import Letter, proven
from mailcore.flow.returned import Returned
from mailcore.mime.parse import Summary
from mailcore.store.arrivals import Stored
from mailcore.store.session import Store


class Reports:
    """One a process. `returned`: None where it has no key to tell our return paths by: then only DMARC and TLS are read."""

    def __init__(self, store: Store, returned: Returned | None = None) -> None:
        self._store = store
        self._came_back = CameBack(store, returned) if returned is not None else None

    async def read(
        self, row: Stored, raw: bytes, summary: Summary, auth: dict[str, Any] | None
    ) -> list[tuple[str, str]]:
        """What was decided and why, in pairs. Each report counts once however often its mail is read. Raises Unavailable."""
        told: list[tuple[str, str]] = []
        if any(one.content_type in (tls_report.JSON, tls_report.GZIP) for one in summary.attachments):
            told += await tls_reports.receive_mail(self._store, row.org_id, raw, source=row.mail_from)
        elif dmarc_report.may_hold(summary):
            letter = Letter(row.org_id, row.id, row.mail_from, proven(auth))
            told += await dmarc_reports.receive_mail(self._store, letter, raw)
        if self._came_back is not None:
            told += [(each.what, each.why) for each in await self._came_back.read(row, raw, auth)]
        return told
