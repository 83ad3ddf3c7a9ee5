"""JSON in. After authentication, never before; a broken body is 400, a wrong one 422 (resend.md §1.2)."""

from __future__ import annotations

import asyncio
from typing import Any, TypeVar

import orjson
from pydantic import BaseModel, ConfigDict, ValidationError
from starlette.requests import Request

from api.errors import ApiError, invalid, missing

M = TypeVar("M", bound=BaseModel)
_HOLDERS = frozenset((str, list, dict))
OFF_LOOP_BYTES = 1_000_000
"""Parsing more than this would hold up everybody else."""


class Asked(BaseModel):
    """A request body: unknown keys are ignored, types are not bent."""

    model_config = ConfigDict(extra="ignore", strict=True)


class Exact(Asked):
    """The same, and an unknown key is refused: with a misspelt one an order would mean other mail than its writer does, or more."""

    model_config = ConfigDict(extra="forbid", strict=True)


async def read_json(request: Request) -> Any:
    """Any JSON value; None for an empty body. Raises ApiError 400 for what is no JSON, 422 for NUL characters in it."""
    raw = await request.body()
    if not raw:
        return None
    try:
        parsed, nul = _parse(raw) if len(raw) < OFF_LOOP_BYTES else await asyncio.to_thread(_parse, raw)
    except orjson.JSONDecodeError:
        raise ApiError(400, "validation_error", "Request body must be valid JSON.") from None
    if nul:
        # Postgres stores no NUL, no header may hold one, and no mail needs it
        raise invalid("The request must not contain NUL characters.")
    return parsed


def _parse(raw: bytes) -> tuple[Any, bool]:
    """The value, and whether it holds a NUL: in an array of millions of numbers that takes a second to find out."""
    parsed = orjson.loads(raw)
    return parsed, b"\\u0000" in raw and _holds_nul(parsed)


async def read(request: Request, model: type[M]) -> M:
    """The body as `model`. Raises ApiError 400 and 422 with what to change."""
    return check(await read_json(request), model)


def check(parsed: Any, model: type[M]) -> M:
    if parsed is None:
        parsed = {}
    if not isinstance(parsed, dict):
        raise invalid("The request body must be a JSON object.")
    try:
        return model.model_validate(parsed)
    except ValidationError as error:
        raise from_pydantic(error) from None


def from_pydantic(error: ValidationError) -> ApiError:
    problems = error.errors(include_url=False, include_input=False)
    for problem in problems:
        if problem["type"] == "missing":
            return missing(".".join(str(part) for part in problem["loc"]))
    first = problems[0]
    known = _WORDS.get(first["type"])
    said = known.format(**first.get("ctx", {})) if known else first["msg"].removeprefix("Value error, ")
    field = ".".join(str(part) for part in first["loc"])
    return invalid((f"Invalid `{field}` field. " if field else "") + said.rstrip(".") + ".")


_WORDS = {
    "string_type": "It must be a string",
    "string_too_long": "It may have at most {max_length} characters",
    "bool_type": "It must be true or false",
    "int_type": "It must be a whole number",
    "extra_forbidden": "There is no such field",
    "list_type": "It must be an array",
    "dict_type": "It must be an object",
    "model_type": "It must be an object",
    "literal_error": "It must be {expected}",
    "too_short": "It must hold at least {min_length}",
    "too_long": "It may hold at most {max_length}",
}
"""By pydantic's type of problem, the way the rest of the API words it; what is not here keeps pydantic's words."""


def takes(model: type[BaseModel], *, required: bool = True) -> dict[str, Any]:
    """For `openapi_extra`: documents a body that `read` reads. app.openapi lifts `$defs` into the components."""
    schema = model.model_json_schema(ref_template="#/components/schemas/{model}")
    return {"requestBody": {"required": required, "content": {"application/json": {"schema": schema}}}}


def _holds_nul(value: Any) -> bool:
    stack = [value]
    while stack:
        item = stack.pop()
        if isinstance(item, str):
            if "\x00" in item:
                return True
        elif isinstance(item, list):
            stack.extend([each for each in item if type(each) in _HOLDERS])
        elif isinstance(item, dict):
            stack.extend(item)
            stack.extend(item.values())
    return False
