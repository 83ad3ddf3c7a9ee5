"""The two lists of what the Resend API is: the official OpenAPI file, and the canonical operations of Appendix A of resend.md.

Both lie beside the checkout (`shared/spec`, or the folder that POSTROOM_SPEC names) and are read, never copied.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeAlias

import jsonschema
import pytest
import yaml

FOLDER = Path(os.environ.get("POSTROOM_SPEC") or Path(__file__).parents[3] / "shared" / "spec")

Operation: TypeAlias = tuple[str, str]
"""Method and path, every parameter written `{}`."""

LATER = (
    "audiences",
    "contacts",
    "segments",
    "topics",
    "contact-properties",
    "templates",
    "broadcasts",
    "automations",
    "events",
)
"""First segments of what this server does not do yet; `inboxes` is a private beta."""

# The file is looser and stricter than the service. resend.md §12: recordings and clients win over it.
NULLABLE = {"html", "text", "cc", "bcc", "reply_to", "scheduled_at", "topic_id", "tracking_subdomain", "last_used_at",
            "subject", "message_id", "user_agent", "request_body", "response_body", "source_id", "filename", "content_id",
            "content_disposition", "domain_id", "region", "blocked_reason", "failure_reason", "raw", "headers"}  # fmt: skip
OPTIONAL = {
    "priority",
    "broadcast_id",
    "broadcast_name",
    "topic_id",
    "tags",
    "next",
    "domain_name",
    "content_id",
    "html",
    "text",
}


def available() -> bool:
    return (FOLDER / "resend-openapi.yaml").is_file()


def document() -> dict[str, Any]:
    """The official OpenAPI file; skips where it is absent."""
    if not available():
        pytest.skip("the Resend specification is not beside the checkout (set POSTROOM_SPEC)", allow_module_level=True)
    loaded: dict[str, Any] = yaml.safe_load((FOLDER / "resend-openapi.yaml").read_text())
    return loaded


def operations(spec: dict[str, Any]) -> dict[Operation, dict[str, Any]]:
    return {
        (method.upper(), canonical(path)): of_method
        for path, of_path in spec["paths"].items()
        for method, of_method in of_path.items()
        if method in ("get", "post", "put", "patch", "delete")
    }


def canonical(path: str) -> str:
    return re.sub(r"\{[^}]*\}|:[a-z]+", "{}", path.rstrip("/"))


def appendix() -> set[Operation]:
    """Every row of Appendix A but the inboxes, with its shorthands written out."""
    text = (FOLDER / "resend.md").read_text().partition("## Appendix A.")[2].partition("## Appendix B.")[0]
    found: set[Operation] = set()
    for row in re.findall(r"^\| (?!Resource|---|inboxes)[^|]+ \| (.+) \|$", text, re.MULTILINE):
        found.update(_row(row))
    return found


def _row(row: str) -> Iterator[Operation]:
    """`GET, POST /a; PATCH, DELETE /a/:id; POST …/send, …/cancel; GET …/events[/:e]`: `…` is the row's path with its id."""
    single = ""
    for part in row.split("; "):
        methods = re.findall(r"GET|POST|PUT|PATCH|DELETE", part)
        for written in re.findall(r"(?:/|…)\S*[^\s,]", part):
            path = single + written[1:] if written.startswith("…") else written
            if re.fullmatch(r"/[a-z-]+/:\w+", path):
                single = path
            shorter, optional, tail = path.partition("[")
            for each in (shorter, shorter + tail.rstrip("]")) if optional else (path,):
                for method in methods:
                    yield method, canonical(each)


def is_later(operation: Operation) -> bool:
    return operation[1].split("/")[1] in LATER


def validate(spec: dict[str, Any], schema: dict[str, Any], body: Any, where: str, *, complete: bool) -> None:
    """Types, enumerations, and (`complete`) that every property the schema names is there, but for OPTIONAL ones."""
    whole = _strict({"components": {"schemas": spec["components"]["schemas"]}, **schema}, complete)
    try:
        jsonschema.Draft202012Validator(whole).validate(body)
    except jsonschema.ValidationError as error:
        raise AssertionError(f"{where}: {error.message} at {error.json_path}") from None


def _strict(schema: Any, complete: bool, name: str = "") -> Any:
    if isinstance(schema, list):
        return [_strict(each, complete) for each in schema]
    if not isinstance(schema, dict):
        return schema
    strict = {key: _strict(value, complete, key) for key, value in schema.items() if key != "properties"}
    if isinstance(schema.get("properties"), dict):
        strict["properties"] = {key: _strict(value, complete, key) for key, value in schema["properties"].items()}
        strict["required"] = sorted(set(schema["properties"]) - OPTIONAL) if complete else []
    if (schema.get("nullable") or name in NULLABLE) and isinstance(schema.get("type"), str):
        strict["type"] = [schema["type"], "null"]
        if "enum" in schema:
            strict["enum"] = [*schema["enum"], None]
    return strict
