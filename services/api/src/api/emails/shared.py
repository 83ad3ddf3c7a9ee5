"""GET /v1/shared/{kind}/{org}/{email}: the page that POST /emails/:id/share signs a link to.

The mail's HTML is hostile. It never stands in our page: it is a document of its own in a frame without rights, and its own answer
forbids scripts, forms, plugins, frames and navigation and gives it an origin of its own (CSP sandbox), however it is opened.
Images are loaded from where the mail says, without a referrer; those inside the mail are part of the document.
"""

from __future__ import annotations

import base64
import hashlib
import re
from html import escape
from typing import Any, Final
from urllib.parse import urlencode
from uuid import UUID

from fastapi import APIRouter, Request
from starlette.responses import Response

from api.context import Context, Ctx
from api.emails import files, reading
from api.errors import ApiError, not_found
from api.links import RECEIVED, SENT, links
from api.pages import path_id
from mailcore.flow.parse import raw_of
from mailcore.kit.errors import NotFound, Refused
from mailcore.store import arrivals, sent

router = APIRouter(include_in_schema=False)

MAX_INLINE = 5_000_000
"""Bytes of images inside a mail that its page shows; one that stands in several places counts in each."""
_CID: Final = re.compile(r"cid:([^\"'\s)>]{1,200})", re.IGNORECASE)
_IMAGES: Final = frozenset(("image/png", "image/jpeg", "image/gif", "image/webp", "image/avif"))

_STYLE = """body{font:15px/1.5 system-ui,sans-serif;margin:0;color:#1a1a1a;background:#f4f4f2}
main{max-width:60rem;margin:0 auto;padding:1.5rem;box-sizing:border-box}h1{font-size:1.3rem;margin:0 0 1rem}
dl{display:grid;grid-template-columns:max-content 1fr;gap:.2rem 1rem;margin:0 0 1rem}dt{color:#666}
dd{margin:0;overflow-wrap:anywhere}
iframe{width:100%;height:70vh;border:1px solid #ddd;background:#fff}pre{white-space:pre-wrap;background:#fff;border:1px solid #ddd;
padding:1rem;overflow-wrap:anywhere}"""
_COMMON = {
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cache-control": "private, no-store",
    "x-robots-tag": "noindex, nofollow",
    "cross-origin-opener-policy": "same-origin",
}
_STYLE_DIGEST = base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()
_PAGE_POLICY = (
    f"default-src 'none'; style-src 'sha256-{_STYLE_DIGEST}'; frame-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'"
)
_BODY_POLICY = (
    "sandbox; default-src 'none'; img-src https: http: data:; style-src 'unsafe-inline'; font-src data:; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'self'"
)


@router.get("/v1/shared/{kind}/{org}/{email}", response_model=None)
async def page(kind: str, org: str, email: str, request: Request, ctx: Ctx) -> Response:
    org_id, email_id, query = _checked(kind, org, email, request, ctx)
    # what the page leads to ends with it
    mail = await _mail(ctx, kind, org_id, email_id, until=int(request.query_params["expires"]))
    rows = "".join(f"<dt>{name}</dt><dd>{escape(value)}</dd>" for name, value in mail["header"] if value)
    if mail["html"]:
        frame = escape(f"/v1/shared/{kind}/{org_id}/{email_id}/body?{query}")
        content = f'<iframe sandbox="" referrerpolicy="no-referrer" title="The email" src="{frame}"></iframe>'
    else:
        content = f"<pre>{escape(mail['text'] or '')}</pre>"
    attached = "".join(
        f'<li><a href="{escape(url)}" rel="noreferrer">{escape(name)}</a> ({size:,} bytes)</li>'
        for name, size, url in mail["files"]
    )
    return _document(
        f"<main><h1>{escape(mail['subject'] or '(no subject)')}</h1><dl>{rows}</dl>{content}"
        + (f"<h2>Attachments</h2><ul>{attached}</ul>" if attached else "")
        + "</main>",
        escape(mail["subject"] or "Email"),
    )


@router.get("/v1/shared/{kind}/{org}/{email}/body", response_model=None)
async def body(kind: str, org: str, email: str, request: Request, ctx: Ctx) -> Response:
    """The mail's HTML as it is, where it can do nothing."""
    org_id, email_id, _ = _checked(kind, org, email, request, ctx)
    html = (await _mail(ctx, kind, org_id, email_id))["html"] or ""
    return Response(
        html.encode("utf-8", "replace"),
        media_type="text/html; charset=utf-8",
        headers=_COMMON | {"content-security-policy": _BODY_POLICY},
    )


def _checked(kind: str, org: str, email: str, request: Request, ctx: Context) -> tuple[UUID, UUID, str]:
    if kind not in (SENT, RECEIVED):
        raise ApiError(404, "not_found", "The requested endpoint does not exist.")
    org_id, email_id = path_id(org), path_id(email)
    expires, signature = (request.query_params.get(name, "") for name in ("expires", "signature"))
    links(ctx).check(kind, org_id, email_id, "page", expires, signature)
    return org_id, email_id, urlencode({"expires": expires, "signature": signature})


async def _mail(ctx: Context, kind: str, org_id: UUID, email_id: UUID, *, until: int | None = None) -> dict[str, Any]:
    return await (_sent if kind == SENT else _received)(ctx, org_id, email_id, until)


async def _sent(ctx: Context, org_id: UUID, email_id: UUID, until: int | None) -> dict[str, Any]:
    async with ctx.store.tenant(org_id) as db:
        row = await sent.find(db, email_id)
    if row is None:
        raise not_found("Email")
    html, text = await reading.body(ctx, row, "data_uri")
    entries = await files.entries(ctx, org_id, email_id)
    if html and row["raw"] is None and row["raw_blob"] is None:
        html = await _with_images(ctx, org_id, email_id, html, entries)
    signed = [
        (one["filename"] or "attachment", one["size"], files.shown(ctx, org_id, email_id, one, until=until))
        for one in entries
    ]
    return {
        "subject": row["subject"],
        "header": [
            ("From", row["from_"]),
            ("To", ", ".join(row["to_"])),
            ("Cc", ", ".join(row["cc"] or [])),
            ("Date", f"{row['scheduled_at'] or row['created_at']:%Y-%m-%d %H:%M} UTC"),
        ],
        "html": html,
        "text": text,
        "files": [(name, size, link["download_url"]) for name, size, link in signed],
    }


async def _received(ctx: Context, org_id: UUID, email_id: UUID, until: int | None) -> dict[str, Any]:
    async with ctx.store.tenant(org_id) as db:
        row = await arrivals.find(db, email_id, raw=True)
    if row is None or row["summary"] is None:
        raise not_found("Email")
    summary = row["summary"]
    content: dict[str, Any] = {"html": None, "text": None}
    try:
        content = await ctx.reader.content(await raw_of(ctx.blobs, row["raw"], row["raw_blob"]), "data_uri")
    except (NotFound, Refused):
        content["text"] = "The body of this email cannot be shown."
    signed = links(ctx)
    return {
        "subject": summary["subject"],
        "header": [
            ("From", summary["from"] or row["mail_from"]),
            ("To", ", ".join(summary["to"])),
            ("Cc", ", ".join(summary["cc"])),
            ("Date", f"{row['created_at']:%Y-%m-%d %H:%M} UTC"),
        ],
        "html": content["html"],
        "text": content["text"],
        "files": [
            (
                one["filename"] or "attachment",
                one["size"],
                signed.file(RECEIVED, org_id, email_id, one["id"], until=until).url,
            )
            for one in summary["attachments"]
        ],
    }


async def _with_images(ctx: Context, org_id: UUID, email_id: UUID, html: str, entries: list[dict[str, Any]]) -> str:
    """`cid:` images of the email itself, up to MAX_INLINE, as `data:`."""
    wanted = {found.lower() for found in _CID.findall(html)}
    images: dict[str, tuple[str, int]] = {}
    room = MAX_INLINE
    for one in entries:
        name = (one["content_id"] or "").strip("<>").lower()
        if name not in wanted or one["content_type"].lower() not in _IMAGES or one["size"] > room:
            continue
        file = await files.content(ctx, org_id, email_id, one["id"])
        if file is not None:
            room -= len(file.content)
            uri = f"data:{file.content_type.lower()};base64,{base64.b64encode(file.content).decode()}"
            images[name] = uri, len(file.content)
    room = MAX_INLINE

    def shown(found: re.Match[str]) -> str:
        nonlocal room
        uri, size = images.get(found[1].lower(), (found[0], 0))
        if size > room:
            return found[0]
        room -= size
        return uri

    return _CID.sub(shown, html)


def _document(content: str, title: str) -> Response:
    return Response(
        f'<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        f"<title>{title}</title><style>{_STYLE}</style>{content}</html>",
        media_type="text/html; charset=utf-8",
        headers=_COMMON | {"content-security-policy": _PAGE_POLICY, "x-frame-options": "DENY"},
    )
