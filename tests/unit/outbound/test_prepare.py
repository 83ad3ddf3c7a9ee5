"""Mails of one claim: each owner's are composed in his own turn."""

from __future__ import annotations

from collections.abc import Collection, Hashable, Iterable, Sequence
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any
from uuid import UUID

from mailcore.kit.ids import uuid7
from mailcore.kit.together import Together
from mailcore.smtp.outcome import Outcome, Result
from mailcore.store.contents import Content
from mailcore.store.deliveries import Leased
from outbound.asks import Light
from outbound.composer import Work
from outbound.memory import Holding, Memory
from outbound.prepare import own, prepare
from outbound.signer import Identity
from unit.outbound.test_composer import content

AT = datetime(2026, 1, 1, tzinfo=UTC)
HEAVY = 100_000


class Composing:
    """In place of the processes that sign: remembers whose turn it was, with how much."""

    def __init__(self) -> None:
        self.turns: list[tuple[Hashable, int]] = []

    async def compose(self, work: Sequence[Work], whose: Hashable) -> list[Outcome]:
        self.turns.append((whose, len(work)))
        return [own(Result.DEFERRED, "enough for here", "4.3.0", "test")] * len(work)


class Run:
    way = None

    def __init__(self) -> None:
        self.holding = Holding()
        self.settled: list[Leased] = []

    def wait_for_memory(self, rows: int) -> None:
        pass

    def class_of(self, row: Leased) -> int:
        return row.lane_id % 2

    def ending(self) -> bool:
        return False

    def was_handed(self, key: object) -> bool:
        return False

    def settle_all(self, rows: Iterable[Leased], outcome: Outcome) -> None:
        assert outcome.rule == "test"
        self.settled += rows


async def test_each_owners_mail_is_composed_in_his_own_turn() -> None:
    a, b, domain = uuid7(), uuid7(), uuid7()
    rows: list[Leased] = []
    there: dict[UUID, Content] = {}
    heavy: set[UUID] = set()

    def add(org: UUID, lane: int, count: int, *, large: bool = False) -> None:
        for _ in range(count):
            each = content(id=uuid7(), domain_id=domain)
            there[each.id] = each
            rows.append(Leased(each.id, 0, 1, 1, org, lane, "u@example.com", False, AT))
            if large:
                heavy.add(each.id)

    add(a, 0, 60)
    add(b, 0, 1)
    add(a, 1, 2)
    add(a, 0, 1, large=True)
    add(b, 0, 1, large=True)

    async def light(ids: Collection[UUID]) -> dict[UUID, Light | int]:
        return {id_: HEAVY if id_ in heavy else (there[id_], 100) for id_ in ids}

    class Db:
        async def fetch(self, sql: str, ids: list[UUID]) -> list[Content]:
            return [there[id_] for id_ in ids]

        async def __aenter__(self) -> Db:
            return self

        async def __aexit__(self, *_: object) -> None:
            pass

    async def identities(ids: object) -> dict[UUID, Identity]:
        return {domain: Identity("send.example.com", False, ())}

    office: Any = SimpleNamespace(
        memory=Memory(100_000_000),
        contents=Together(light),
        signers=(composing := Composing()),
        sources=SimpleNamespace(idle=True),
        signer=SimpleNamespace(identities=identities),
        store=SimpleNamespace(worker=lambda by_index: Db()),
        blobs=None,
        tracker=None,
    )
    run: Any = Run()
    await prepare(office, run, rows)
    assert sorted(composing.turns, key=str) == sorted(
        [((a, 0), 25), ((a, 0), 25), ((a, 0), 10), ((a, 1), 2), ((b, 0), 1), ((a, 0), 1), ((b, 0), 1)], key=str
    )
    assert sorted(run.settled) == sorted(rows)
    assert office.memory.light.held == office.memory.heavy.held == 0
