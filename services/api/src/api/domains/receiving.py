"""How a domain receives: GET, PATCH /v1/domains/:id/receiving. A change counts at the MX within five seconds.

One object for all of it. A new setting is a column of `domains`, its name in store.addresses.SETTINGS, a line in each shape here.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Request
from pydantic import AfterValidator, BaseModel, Field

from api.auth import FullAccess
from api.body import Asked, read, takes
from api.context import Ctx
from api.errors import invalid, not_found
from api.pages import path_id
from mailcore.kit.errors import Invalid
from mailcore.mime.marks import TAG
from mailcore.smtp.address import folded, parse_address
from mailcore.store import addresses

router = APIRouter(prefix="/v1/domains/{id}/receiving", tags=["domains"])

CatchAll = Literal["create", "mailbox", "reject"]
DmarcPolicy = Literal["tag", "quarantine", "reject"]
SpamAction = Literal["tag", "junk", "quarantine", "reject"]
MalwareAction = Literal["tag", "quarantine", "reject"]
Points = Annotated[float, Field(ge=-1000, le=1000)]


def _tag(text: str) -> str:
    if re.fullmatch(TAG, text) is None:
        raise ValueError("A tag is 1 to 40 printable characters of ASCII, such as `[SPAM]`")
    return text


class ReceivingChanged(Asked):
    """What is left out stays as it is."""

    catch_all: CatchAll = "create"
    """What becomes of mail to an address that nobody made. create: it gets a mailbox of its own; mailbox: it lies in
    `catch_all_mailbox`; reject: it is refused while it is sent, 550 5.1.1."""
    catch_all_mailbox: Annotated[str, Field(max_length=1000)] | None = None
    """An address of one of the organization's domains."""
    subaddressing: bool = True
    """user+tag@ is user@."""
    greylisting: bool = False
    """Who has never sent here has to come a second time."""
    dmarc_policy: DmarcPolicy = "tag"
    """What is done with mail that fails DMARC: it is said; it is held; it is refused where its author's domain asks for that."""
    spam_action: SpamAction = "junk"
    """What is done with spam, where a scanner is on. tag: it is said; junk: it lies in its mailbox with the keyword $Junk;
    quarantine: it is held; reject: it is refused while it is sent, and held where that is over."""
    spam_score: Points = 12
    """SpamAssassin's points from which on mail is spam …"""
    unsure_score: Points = 5
    """… and from which on a second opinion is asked, where there is one. At most `spam_score`."""
    malware_action: MalwareAction = "quarantine"
    """What is done with mail that holds malware. tag: it lies in its mailbox, and its attachments cannot be downloaded."""
    subject_tag: Annotated[str, Field(max_length=40), AfterValidator(_tag)] | None = None
    """Before the subject of spam that is passed on by a route: `[SPAM]`. The mail that is kept here stays as it came."""
    compatible_headers: bool = False
    """Mail that is passed on has the fields by which Exchange, SpamAssassin's readers and Mailbridge's sort, beside X-Postroom-…"""


class Receiving(BaseModel):
    object: Literal["receiving"]
    domain_id: str
    catch_all: CatchAll
    catch_all_mailbox: str | None
    subaddressing: bool
    greylisting: bool
    dmarc_policy: DmarcPolicy
    spam_action: SpamAction
    spam_score: float
    unsure_score: float
    malware_action: MalwareAction
    subject_tag: str | None
    compatible_headers: bool


@router.get("", responses={200: {"model": Receiving}}, response_model=None)
async def get(id: str, who: FullAccess, ctx: Ctx) -> dict[str, Any]:
    async with ctx.store.tenant(who.org_id) as db:
        row = await addresses.receiving(db, path_id(id))
    if row is None:
        raise not_found("Domain")
    return _shape(row)


@router.patch("", responses={200: {"model": Receiving}}, response_model=None, openapi_extra=takes(ReceivingChanged))
async def update(id: str, request: Request, who: FullAccess, ctx: Ctx) -> dict[str, Any]:
    domain_id = path_id(id)
    changed = (await read(request, ReceivingChanged)).model_dump(exclude_unset=True)
    if changed.get("catch_all_mailbox") is not None:
        changed["catch_all_mailbox"] = _mailbox(changed["catch_all_mailbox"])
    async with ctx.store.tenant(who.org_id) as db:
        before = await addresses.receiving(db, domain_id)
        if before is None:
            raise not_found("Domain")
        after = {**dict(before), **changed}
        if after["catch_all"] == "mailbox" and after["catch_all_mailbox"] is None:
            raise invalid("Invalid `catch_all_mailbox` field. With `catch_all` set to `mailbox` it must name one.")
        if after["unsure_score"] > after["spam_score"]:
            raise invalid("Invalid `unsure_score` field. It must not be above `spam_score`.")
        if changed.get("catch_all_mailbox") and await addresses.foreign_domains(
            db, [changed["catch_all_mailbox"].rpartition("@")[2]]
        ):
            raise invalid("Invalid `catch_all_mailbox` field. It must be an address of a domain of this organization.")
        row = await addresses.change_receiving(db, domain_id, changed)
    return _shape(row)


def _mailbox(text: str) -> str:
    try:
        address = folded(parse_address(text.strip(" "), allow_quoted=True))
    except Invalid as error:
        raise invalid(f"Invalid `catch_all_mailbox` field. {error.public}") from None
    local, _, domain = address.rpartition("@")
    return f"{addresses.base_of(local)}@{domain}"


def _shape(row: Any) -> dict[str, Any]:
    return {"object": "receiving", "domain_id": str(row["id"]), **{name: row[name] for name in addresses.SETTINGS}}
