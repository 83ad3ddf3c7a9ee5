"""How domains receive, and addresses that are not mailboxes: over the API."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from uuid import UUID

import httpx
import pytest

from mailcore.kit.ids import uuid7

from .harness import MakeClient, MakeKey, assert_error

MakeOrg = Callable[[], Awaitable[UUID]]
MakeDomain = Callable[[UUID, str], Awaitable[UUID]]
DEFAULTS = {
    "catch_all": "create",
    "catch_all_mailbox": None,
    "subaddressing": True,
    "greylisting": False,
    "dmarc_policy": "tag",
    "spam_action": "junk",
    "spam_score": 12.0,
    "unsure_score": 5.0,
    "malware_action": "quarantine",
    "subject_tag": None,
    "compatible_headers": False,
}


async def test_how_a_domain_receives(api: httpx.AsyncClient, domain: UUID) -> None:
    path = f"/v1/domains/{domain}/receiving"
    as_made = {"object": "receiving", "domain_id": str(domain), **DEFAULTS}
    assert (await api.get(path)).json() == as_made
    changed = {"catch_all": "mailbox", "catch_all_mailbox": "Lost+x@PostRoom.test", "dmarc_policy": "reject"}
    answer = await api.patch(path, json=changed)
    assert answer.json() == as_made | changed | {"catch_all_mailbox": "lost@postroom.test"}
    assert (await api.patch(path, json={"greylisting": True})).json()["catch_all"] == "mailbox"
    assert (await api.get(path)).json()["greylisting"] is True


@pytest.mark.parametrize(
    ("body", "word"),
    [
        ({"catch_all": "mailbox"}, "catch_all_mailbox"),
        ({"catch_all": "bounce"}, "catch_all"),
        ({"catch_all_mailbox": "a@elsewhere.test"}, "domain of this organization"),
        ({"catch_all_mailbox": "nonsense"}, "catch_all_mailbox"),
        ({"subaddressing": "yes"}, "subaddressing"),
        ({"dmarc_policy": None}, "dmarc_policy"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
async def test_what_a_domain_cannot_do(
    api: httpx.AsyncClient, domain: UUID, body: dict[str, object], word: str
) -> None:
    assert_error(await api.patch(f"/v1/domains/{domain}/receiving", json=body), 422, "validation_error", word)


async def test_an_address_is_made_changed_and_deleted(api: httpx.AsyncClient, domain: UUID) -> None:
    asked = {"address": "Sales@PostRoom.test", "kind": "alias", "targets": ["Ann@postroom.test", "ann@postroom.test"]}
    made = await api.post("/v1/addresses", json=asked)
    assert made.status_code == 201
    address = made.json()
    id_ = address.pop("id")
    assert address.pop("created_at")
    assert address == {
        "object": "address",
        "address": "sales@postroom.test",
        "kind": "alias",
        "targets": ["ann@postroom.test"],
        "domain_id": str(domain),
    }
    assert_error(await api.post("/v1/addresses", json=asked), 409, "resource_locked", "already")
    assert (await api.get(f"/v1/addresses/{id_}")).json()["targets"] == ["ann@postroom.test"]
    changed = await api.patch(f"/v1/addresses/{id_}", json={"targets": ["bob@postroom.test"]})
    assert changed.json()["targets"] == ["bob@postroom.test"]
    refused = (await api.patch(f"/v1/addresses/{id_}", json={"kind": "reject"})).json()
    assert (refused["kind"], refused["targets"]) == ("reject", [])
    other = (await api.post("/v1/addresses", json={"address": "no+tag@postroom.test", "kind": "reject"})).json()["id"]
    listed = (await api.get("/v1/addresses", params={"domain_id": str(domain), "limit": 1})).json()
    assert ([each["id"] for each in listed["data"]], listed["has_more"]) == ([other], True)
    assert (await api.get("/v1/addresses", params={"domain_id": str(uuid7())})).json()["data"] == []
    assert (await api.delete(f"/v1/addresses/{id_}")).json() == {"object": "address", "id": id_, "deleted": True}
    assert_error(await api.get(f"/v1/addresses/{id_}"), 404, "not_found", "Address")


@pytest.mark.parametrize(
    ("body", "word"),
    [
        ({"address": "a@elsewhere.test", "kind": "reject"}, "POST /domains"),
        ({"address": "a@postroom.test", "kind": "alias"}, "at least one"),
        ({"address": "a@postroom.test", "kind": "alias", "targets": ["b@elsewhere.test"]}, "POST /v1/routes"),
        ({"address": "a@postroom.test", "kind": "alias", "targets": ["b+c@postroom.test"]}, "+tag"),
        ({"address": "a@postroom.test", "kind": "reject", "targets": ["b@postroom.test"]}, "targets"),
        ({"address": "PostMaster@postroom.test", "kind": "reject"}, "RFC 2142"),
        ({"address": "abuse+x@postroom.test", "kind": "reject"}, "RFC 2142"),
        ({"address": "not an address", "kind": "reject"}, "address"),
        ({"address": "a@postroom.test", "kind": "mailbox"}, "kind"),
    ],
    ids=lambda value: value.get("address", "") + value["kind"] if isinstance(value, dict) else "",
)
async def test_what_is_no_address(api: httpx.AsyncClient, domain: UUID, body: dict[str, object], word: str) -> None:
    assert_error(await api.post("/v1/addresses", json=body), 422, "validation_error", word)
    assert (await api.get("/v1/addresses")).json()["data"] == []


async def test_others_see_and_change_nothing(
    api: httpx.AsyncClient,
    domain: UUID,
    org: UUID,
    make_org: MakeOrg,
    make_key: MakeKey,
    make_client: MakeClient,
    make_domain: MakeDomain,
) -> None:
    asked = {"address": "sales@postroom.test", "kind": "reject"}
    id_ = (await api.post("/v1/addresses", json=asked)).json()["id"]
    stranger_org = await make_org()
    await make_domain(stranger_org, "stranger.test")
    stranger = await make_client(await make_key(stranger_org))
    for answer in (
        await stranger.get(f"/v1/addresses/{id_}"),
        await stranger.patch(f"/v1/addresses/{id_}", json={"kind": "reject"}),
        await stranger.delete(f"/v1/addresses/{id_}"),
    ):
        assert_error(answer, 404, "not_found", "Address")
    for answer in (
        await stranger.get(f"/v1/domains/{domain}/receiving"),
        await stranger.patch(f"/v1/domains/{domain}/receiving", json={"catch_all": "reject"}),
    ):
        assert_error(answer, 404, "not_found", "Domain")
    mine = {"address": "a@stranger.test", "kind": "alias", "targets": ["sales@postroom.test"]}
    assert_error(await stranger.post("/v1/addresses", json=mine), 422, "validation_error", "postroom.test")
    assert_error(await stranger.post("/v1/addresses", json=asked), 422, "validation_error", "postroom.test")
    assert (await stranger.get("/v1/addresses")).json()["data"] == []
    sending = await make_client(await make_key(org, permission="sending_access"))
    assert_error(await sending.get("/v1/addresses"), 401, "restricted_api_key", "only")
