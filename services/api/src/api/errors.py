"""Every error as Resend words it: `{"statusCode", "name", "message"}` (resend.md §3). Here alone MailError becomes HTTP."""

from __future__ import annotations

from collections.abc import Mapping

import orjson
from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from mailcore.kit.errors import Conflict, Exceeded, Invalid, MailError, NotFound, Refused, Unavailable
from mailcore.kit.log import logger

log = logger(__name__)


class ApiError(Exception):
    def __init__(self, status: int, name: str, message: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.name = name
        self.message = message
        self.headers = headers


def invalid(message: str, name: str = "validation_error") -> ApiError:
    return ApiError(422, name, message)


def missing(field: str) -> ApiError:
    return ApiError(422, "missing_required_field", f"Missing `{field}` field.")


def not_found(what: str) -> ApiError:
    """`Email`, `Domain`, `API key` …: the same answer for what does not exist and for what is another tenant's."""
    return ApiError(404, "not_found", f"{what} not found")


# names that decide their own status; everything else goes by the class of the error
_STATUS = {
    "invalid_idempotency_key": 400,
    "concurrent_idempotent_requests": 409,
    "invalid_idempotent_request": 409,
    "rate_limit_exceeded": 429,
    "invalid_credentials": 401,
}


def from_mail_error(error: MailError) -> ApiError:
    if isinstance(error, Invalid):
        status, name = 422, "validation_error"
    elif isinstance(error, NotFound):
        status, name = 404, "not_found"
    elif isinstance(error, Conflict):
        status, name = 409, "resource_locked"
    elif isinstance(error, Refused):
        status, name = 403, "validation_error"
    elif isinstance(error, Unavailable):
        return ApiError(503, "service_unavailable", error.public, {"retry-after": "1"})
    elif isinstance(error, Exceeded):
        return ApiError(429, error.name or "rate_limit_exceeded", error.public, {"retry-after": str(error.retry_after)})
    else:
        return ApiError(500, "application_error", "An unexpected error occurred.")
    name = error.name or name
    return ApiError(_STATUS.get(name, status), name, error.public)


_ROUTING = {
    404: ("not_found", "The requested endpoint does not exist."),
    405: ("method_not_allowed", "Method is not allowed for the requested path."),
    413: ("validation_error", "The request body is too large."),
}


def from_exception(error: Exception) -> ApiError:
    if isinstance(error, ApiError):
        return error
    if isinstance(error, MailError):
        return from_mail_error(error)
    if isinstance(error, HTTPException):
        name, message = _ROUTING.get(error.status_code, ("validation_error", str(error.detail)))
        return ApiError(error.status_code, name, message, error.headers)
    if isinstance(error, RequestValidationError):
        return from_validation(error)
    if isinstance(error, ClientDisconnect):  # nobody is there to read it, and no error of ours
        return ApiError(400, "validation_error", "The connection ended inside the request body.")
    log.error("unexpected error", exc_info=error)
    return ApiError(500, "application_error", "An unexpected error occurred.")


def from_validation(error: RequestValidationError) -> ApiError:
    """Of a declared query or path parameter."""
    first = error.errors()[0]
    field = str(first["loc"][-1])
    if first["type"] == "missing":
        return ApiError(422, "missing_required_parameter", f"Missing `{field}` parameter.")
    return ApiError(422, "invalid_parameter", f"Invalid `{field}` parameter: {first['msg']}.")


def response(error: ApiError) -> Response:
    body = orjson.dumps({"statusCode": error.status, "name": error.name, "message": error.message})
    return Response(body, error.status, dict(error.headers or {}), "application/json")


async def _answer(_: Request, error: Exception) -> Response:
    return response(from_exception(error))


def install(app: FastAPI) -> None:
    """For errors inside routes, the unexpected ones too; edge catches what these do not see."""
    for kind in (ApiError, MailError, HTTPException, RequestValidationError, Exception):
        app.add_exception_handler(kind, _answer)
