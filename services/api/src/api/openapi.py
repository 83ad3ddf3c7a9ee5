"""/openapi.json, true to what runs: every operation with its body, its answers and Resend's errors."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

_ERROR = {
    "type": "object",
    "required": ["statusCode", "name", "message"],
    "properties": {
        "statusCode": {"type": "integer"},
        "name": {"type": "string"},
        "message": {"type": "string", "description": "What is wrong and what to change."},
    },
}
_OPEN = ("/health", "/healthz", "/readyz")
_ERRORS = {
    "400": "The body is no JSON, or the API key is unknown.",
    "401": "No API key, or one that may only send.",
    "403": "The API key is not active, or who asks may not do this.",
    "422": "A field or parameter is missing or wrong.",
    "429": "More requests than the limit allows.",
    "500": "Unexpected.",
    "503": "The database cannot be reached just now, or there is no memory for a body this large.",
}
_ALSO = {
    ("post", "/emails"): {
        "403": "The domain of `from` is not verified, or is not this key's.",
        "409": "The idempotency key is in use, or was used for another request.",
    },
    ("post", "/emails/batch"): {
        "403": "The domain of `from` is not verified, or is not this key's.",
        "409": "The idempotency key is in use, or was used for another request.",
    },
    ("patch", "/emails/{id}"): {"409": "Another request is changing this email just now."},
    ("post", "/emails/{id}/cancel"): {"409": "Another request is changing this email just now."},
    ("post", "/domains"): {"403": "The name is registered already, or there are too many domains."},
    ("post", "/domains/claim"): {"403": "The domain is this organization's already, or there are too many."},
    ("post", "/api-keys"): {"404": "`domain_id` or one of `domain_ids` is no domain of this organization."},
    ("patch", "/api-keys/{id}"): {"403": "The key is suspended, which only the operator can take back."},
    ("post", "/v1/routes"): {"404": "A webhook or a way that an action names is none of this organization."},
    ("put", "/v1/routes/order"): {"404": "One of the ids is no route of this organization."},
    ("post", "/v1/routes/explain"): {"404": "There is no such arrival."},
    ("post", "/v1/accounts"): {"409": "This account is connected already."},
    ("post", "/v1/mailboxes"): {"409": "There is a mailbox with this address already."},
    ("post", "/v1/addresses"): {"409": "This address is an alias or refused already."},
    ("delete", "/v1/mailboxes/{mailbox_id}"): {"409": "It mirrors an account, which is to be removed instead."},
    ("post", "/v1/domains/{id}/dkim-keys"): {
        "409": "The selector was used before, or a key of this algorithm waits already."
    },
    ("post", "/v1/domains/{id}/dkim-keys/import"): {
        "409": "The selector was used before, or a key of this algorithm waits."
    },
    ("post", "/v1/domains/{id}/dkim-keys/rotate"): {"409": "The domain has just got another key."},
}
"""What only these answer besides."""


def describe(app: FastAPI) -> dict[str, Any]:
    document = get_openapi(title=app.title, version=app.version, routes=app.routes)
    components = document.setdefault("components", {})
    schemas = components.setdefault("schemas", {})
    for unused in ("HTTPValidationError", "ValidationError"):
        schemas.pop(unused, None)
    schemas["Error"] = _ERROR
    components["securitySchemes"] = {
        "bearer": {
            "type": "http",
            "scheme": "bearer",
            "description": "An API key (`re_…`), or the token of /auth/login.",
        },
        "cookie": {"type": "apiKey", "in": "cookie", "name": "__Host-postroom_session"},
    }
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            _lift_definitions(operation, schemas)
            _add_errors(operation, method, path)
    return document


def _add_errors(operation: dict[str, Any], method: str, path: str) -> None:
    answers = operation.setdefault("responses", {})
    answers.pop("422", None)
    if path in _OPEN:
        return
    operation.setdefault("security", [{"bearer": []}, {"cookie": []}])
    wanted = _ERRORS | _ALSO.get((method, path), {})
    if "{" in path:
        wanted["404"] = "No such object in this organization."
    if "requestBody" in operation:
        wanted["408"] = "The body came too slowly."
        wanted["413"] = "The body is too large."
    for status, text in wanted.items():
        answers.setdefault(
            status,
            {"description": text, "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}}},
        )


def _lift_definitions(operation: dict[str, Any], schemas: dict[str, Any]) -> None:
    content = operation.get("requestBody", {}).get("content", {})
    for media in content.values():
        schema = media.get("schema", {})
        schemas.update(schema.pop("$defs", {}))
        title = schema.get("title")
        if title and "$ref" not in schema:
            schemas[title] = schema
            media["schema"] = {"$ref": f"#/components/schemas/{title}"}
