"""Tables of routes: conditions, order, what is not known yet, and time that grows with the text and no faster."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any
from uuid import UUID, uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from mailcore.flow.conditions import Facts, Match, any_of, conditions
from mailcore.flow.table import Definition, Plan, RejectAction, Route, StoreAction, Table, table_of

KNOWN = Facts(
    sender="jane@sender.example",
    door="smtp",
    size=5000,
    from_=["Jane@Sender.example", "other@elsewhere.example"],
    subject=["Invoice 17: Grüße"],
    headers={"x-kind": ["bill", "copy"], "x-empty": [""]},
    attachments=True,
    automatic=False,
    verdicts=["clean", "suspicious"],
    scores=[1.5, 6.0],
    auth={"spf": "pass", "dmarc": "fail"},
)
AT_RCPT = Facts(sender="jane@sender.example", door="smtp")
TO = "support+7@postroom.test"


def route(place: int = 1, **written: Any) -> Route:
    given_ = {"match": {}, "actions": [{"type": "store"}], **written}
    return Route.of(uuid4(), f"r{place}", place, datetime.now(UTC), Definition.model_validate(given_))


def table(*written: dict[str, Any]) -> Table:
    return Table(tuple(route(place, **each) for place, each in enumerate(written, 1)))


@pytest.mark.parametrize(
    ("match", "fits", "at_rcpt"),
    [
        ({}, True, True),
        ({"recipient": "support+*@postroom.test"}, True, True),
        ({"recipient": "SUPPORT+?@POSTROOM.TEST"}, True, True),
        ({"recipient": "support@postroom.test"}, False, False),
        ({"recipient": ["a@b.c", {"regex": r"^support\+\d@"}]}, True, True),
        ({"recipient": {"regex": "port"}}, True, True),
        ({"recipient": "port"}, False, False),
        ({"sender": "*@sender.example"}, True, True),
        ({"sender": "*.example"}, True, True),
        ({"from": "jane@sender.example"}, True, None),
        ({"from": "other@*"}, True, None),
        ({"from": "third@*"}, False, None),
        ({"subject": "invoice*"}, True, None),
        ({"subject": {"regex": "GRÜSSE|grüße"}}, True, None),
        ({"headers": [{"name": "X-Kind"}]}, True, None),
        ({"headers": [{"name": "X-Kind", "value": "copy"}, {"name": "x-empty"}]}, True, None),
        ({"headers": [{"name": "X-Kind", "value": "copy"}, {"name": "X-None"}]}, False, None),
        ({"size": {"min": 5000, "max": 5000}}, True, None),
        ({"size": {"min": 5001}}, False, None),
        ({"attachments": True, "automatic": False, "door": ["smtp", "imap"]}, True, None),
        ({"door": ["imap"]}, False, False),
        ({"door": ["imap"], "subject": "*"}, False, False),
        ({"verdict": ["spam", "suspicious"]}, True, None),
        ({"verdict": ["spam"]}, False, None),
        ({"score": {"min": 5}}, True, None),
        ({"score": {"max": 1}}, False, None),
        ({"auth": {"dmarc": ["fail"], "spf": ["pass", "none"]}}, True, None),
        ({"auth": {"dkim": ["none"]}}, True, None),
        ({"auth": {"dkim": ["pass"], "spf": ["pass"]}}, False, None),
        ({"recipient": "nobody@x", "subject": "*"}, False, False),
    ],
)
def test_conditions(match: dict[str, Any], fits: bool, at_rcpt: bool | None) -> None:
    assert route(match=match).fits(KNOWN, TO) is fits
    assert route(match=match).fits(AT_RCPT, TO) is at_rcpt


@pytest.mark.parametrize(
    ("exception", "fits", "at_rcpt"),
    [
        ({"recipient": TO}, False, False),
        ({"recipient": "other@x"}, True, True),
        ({"subject": "invoice*"}, False, None),
        ({"subject": "offer*"}, True, None),
        ({"recipient": "other@x", "subject": "*"}, True, True),
    ],
)
def test_exceptions(exception: dict[str, Any], fits: bool, at_rcpt: bool | None) -> None:
    one = route(**{"except": exception})
    assert (one.fits(KNOWN, TO), one.fits(AT_RCPT, TO)) == (fits, at_rcpt)


def actions(plan: Plan) -> list[tuple[str, str, int | None]]:
    return [(step.recipient, step.action.type, step.route and step.route.place) for step in plan.steps]


def test_the_table_ends_at_the_first_that_fits_and_stops() -> None:
    webhook = {"type": "webhook", "webhook_id": str(UUID(int=1))}
    one = table(
        {"actions": [webhook], "stop": False},
        {"match": {"recipient": "a@*"}, "actions": [{"type": "forward", "to": ["x@y.example"]}, {"type": "store"}]},
        {"match": {"recipient": "b@*"}, "actions": [{"type": "drop"}], "stop": False},
        {"match": {"recipient": "c@*"}, "actions": [{"type": "store", "mailbox": "d@x.example"}]},
    )
    plan = one.plan(KNOWN, ["a@x.example", "b@x.example", "c@x.example", "e@x.example"])
    assert actions(plan) == [
        ("a@x.example", "webhook", 1),
        ("a@x.example", "forward", 2),
        ("a@x.example", "store", 2),
        ("b@x.example", "webhook", 1),
        ("b@x.example", "drop", 3),
        ("c@x.example", "webhook", 1),
        ("c@x.example", "store", 4),
        ("e@x.example", "webhook", 1),
    ]
    assert actions(Table().plan(KNOWN, [TO])) == [(TO, "store", None)]


def test_what_is_released_is_held_by_no_route() -> None:
    one = table({"actions": [{"type": "quarantine"}]}, {"actions": [{"type": "drop"}]})
    assert [one.plan(KNOWN, [TO]).held is not None, one.plan(KNOWN, [TO], released=True).held is not None] == [
        True,
        False,
    ]
    assert actions(one.plan(KNOWN, [TO], released=True)) == [(TO, "drop", 2)]


def test_a_rejection_at_rcpt_needs_every_route_before_it_to_be_decided() -> None:
    reject = {"actions": [{"type": "reject", "message": "No"}]}
    for before, refused in (
        ([], True),
        ([{"match": {"recipient": "other@*"}}], True),
        ([{"match": {"recipient": "support*"}}], False),
        ([{"match": {"subject": "offer"}}], False),
        ([{"match": {"subject": "offer"}, "stop": False}], True),
        ([{"match": {"subject": "offer", "recipient": "other@*"}}], True),
    ):
        found = table(*before, reject).refusal(AT_RCPT, TO)
        assert (found is not None) is refused, before
        if found is not None:
            assert found[1] == RejectAction(type="reject", message="No")


def test_the_header_is_read_only_where_something_asks_for_it() -> None:
    for written, reads in (
        ({"match": {"subject": "x", "size": {"max": 1}}}, False),
        ({"match": {"headers": [{"name": "x"}]}}, True),
        ({"match": {"automatic": True}}, True),
        ({"except": {"automatic": True}}, True),
        ({"actions": [{"type": "forward", "to": ["a@b.example"]}]}, True),
    ):
        assert table(written).reads_header is reads, written


def test_rows_that_have_not_changed_are_not_read_again_and_one_that_cannot_be_read_is_passed_over() -> None:
    at = datetime.now(UTC)
    rows = [
        {
            "id": uuid4(),
            "name": name,
            "updated_at": at,
            "match": match,
            "except_": None,
            "actions": [{"type": "store"}],
            "stop": True,
        }
        for name, match in (("a", {}), ("b", {"invented": 1}), ("c", {}))
    ]
    first = table_of(rows)
    assert [(each.name, each.place) for each in first] == [("a", 1), ("c", 3)]
    known = {each.id: each for each in first}
    again = table_of(rows, lambda id_, updated_at: known.get(id_) if updated_at == at else None)
    assert all(one is other for one, other in zip(first, again, strict=True))


@pytest.mark.parametrize(
    "pattern", [{"regex": "(a*)*b"}, {"regex": "(.*){50}x"}, {"regex": "(a|aa)+$"}, "*a" * 60 + "b", "?" * 150]
)
def test_c1_no_pattern_takes_longer_than_the_text(pattern: Any) -> None:
    """One that goes back and forth would not end: texts and patterns are strangers'."""
    assert any_of(Match.model_validate({"subject": pattern}).subject or "")(["a" * 100_000]) in (True, False)


@given(st.text(max_size=200))
def test_a_glob_without_signs_is_the_text_itself(text: str) -> None:
    if len(text) > 0 and not set("*?") & set(text) and text.isprintable():
        assert any_of(text)([text])


@given(st.text(max_size=100), st.text(max_size=100))
def test_any_text_may_be_looked_at(pattern: str, text: str) -> None:
    """Lone surrogates, line ends and all: what was stored is what comes."""
    try:
        match = Match.model_validate(
            {"subject": pattern, "headers": [{"name": "x", "value": {"regex": pattern or "x"}}]}
        )
    except ValidationError:
        return
    for condition in conditions(match):
        assert condition.holds(Facts(sender="", subject=[text], headers={"x": [text]}), "a@b") in (True, False)
        condition.explained(Facts(sender="", subject=[text], headers={"x": [text]}), "a@b")


def test_actions_are_what_they_say() -> None:
    assert route().actions == (StoreAction(type="store"),)
    for wrong in ([], [{"type": "store", "to": "x"}], [{"type": "forward", "to": []}], [{"type": "relay"}], ["drop"]):
        with pytest.raises(ValidationError):
            Definition.model_validate({"match": {}, "actions": wrong})
