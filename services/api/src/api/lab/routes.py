"""PUT /v1/lab/dns/:zone."""

from __future__ import annotations

import asyncio
from typing import Any

from fastapi import APIRouter, Request
from pydantic import BaseModel, Field

from api.auth import FullAccess
from api.body import Asked, read, takes
from api.context import Ctx
from api.errors import ApiError
from mailcore.dns import lab

router = APIRouter(prefix="/v1/lab", tags=["catch mode"])


class LabRecord(BaseModel):
    name: str = Field(description="`@`, relative, or in full.")
    type: str
    value: str = Field(description="As in a zone file; `SERVFAIL` and `TIMEOUT` make the name misbehave.")
    ttl: int = lab.DEFAULT_TTL


class Zone(Asked):
    records: list[dict[str, Any]] = Field(json_schema_extra={"items": LabRecord.model_json_schema()})


class ZoneSet(BaseModel):
    object: str = "zone"
    name: str
    records: int


@router.put("/dns/{zone}", response_model=None, responses={200: {"model": ZoneSet}}, openapi_extra=takes(Zone))
async def put_zone(zone: str, request: Request, who: FullAccess, ctx: Ctx) -> dict[str, Any]:
    """Replaces the zone; the stack's name server answers from it at once."""
    folder = ctx.settings.catch.dns_dir
    if folder is None:
        raise ApiError(404, "not_found", "The requested endpoint does not exist.")
    asked = await read(request, Zone)
    await asyncio.to_thread(lab.put_zone, folder, zone, asked.records)
    name = lab.zone_origin(zone).to_text(omit_final_dot=True)
    return {"object": "zone", "name": name, "records": len(asked.records)}
