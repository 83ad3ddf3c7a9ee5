"""An OpenAPI document as one HTML page: operations by tag, each with its parameters, bodies, answers and a call to copy.

Everything that comes out of the document is escaped; text between backticks becomes code.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from html import escape
from typing import Any, TypeAlias

Schema: TypeAlias = dict[str, Any]

METHODS = ("get", "post", "put", "patch", "delete")
MAX_DEPTH = 5
SAMPLES = {
    "from": "Acme <hello@example.com>",
    "to": ["you@example.com"],
    "subject": "Hello",
    "html": "<p>Hello</p>",
    "text": "Hello",
    "email": "you@example.com",
    "domain": "example.com",
    "endpoint": "https://example.com/hook",
    "events": ["email.delivered"],
    "created_at": "2026-01-31T12:00:00.000000+00:00",
    "token": "re_…",
    "name": "Example",
}
"""By a field's name, where its schema has no example."""

STYLE = """
:root{color-scheme:light dark;--line:#d8dde3;--soft:#f4f6f8;--text:#1b2733;--dim:#5a6b7b;--link:#0b5cad;
--get:#0b6e4f;--post:#0b5cad;--patch:#8a5a00;--put:#8a5a00;--delete:#a8211b}
@media(prefers-color-scheme:dark){:root{--line:#33404d;--soft:#1a232c;--text:#dde5ec;--dim:#93a4b4;--link:#7ab8f5;
--get:#5fd0a5;--post:#7ab8f5;--patch:#e6b455;--put:#e6b455;--delete:#f28b82}body{background:#10161c}}
*{box-sizing:border-box}
body{margin:0;font:16px/1.55 system-ui,sans-serif;color:var(--text)}
a{color:var(--link)}
code,pre{font:14px/1.45 ui-monospace,SFMono-Regular,Menlo,Consolas,monospace}
pre{background:var(--soft);border:1px solid var(--line);border-radius:6px;padding:.75rem;overflow-x:auto}
.layout{display:grid;grid-template-columns:17rem minmax(0,1fr);max-width:84rem;margin:auto}
nav{position:sticky;top:0;max-height:100vh;overflow-y:auto;padding:1rem;border-right:1px solid var(--line);font-size:14px}
nav ul{list-style:none;margin:.15rem 0 .5rem;padding:0}
nav summary{font-weight:600;cursor:pointer;padding:.15rem 0}
nav li a{display:block;padding:.15rem 0 .15rem .75rem;text-decoration:none;overflow-wrap:anywhere}
main{padding:1rem 1.5rem 6rem;min-width:0}
h1{margin:.25rem 0 0}h2{margin:2.5rem 0 .5rem;border-bottom:1px solid var(--line)}h4{margin:1rem 0 .25rem}
.op{border:1px solid var(--line);border-radius:8px;margin:.75rem 0}
.op>summary{padding:.6rem .8rem;cursor:pointer;overflow-wrap:anywhere}
.op>div{padding:0 .8rem .8rem}
.op:target{outline:2px solid var(--link)}
.m{display:inline-block;min-width:4.2rem;font-weight:700}
.get{color:var(--get)}.post{color:var(--post)}.patch{color:var(--patch)}.put{color:var(--put)}.delete{color:var(--delete)}
.dim{color:var(--dim)}
dl{margin:.25rem 0;display:grid;grid-template-columns:minmax(8rem,max-content) minmax(0,1fr);gap:.15rem .9rem}
dt{overflow-wrap:anywhere}dd{margin:0}
dl dl{grid-column:1/-1;margin-left:.9rem;padding-left:.8rem;border-left:2px solid var(--line)}
@media(max-width:48rem){.layout{display:block}nav{position:static;max-height:none;border-right:0;
border-bottom:1px solid var(--line)}main{padding:1rem}dl{display:block}dd{margin:0 0 .4rem .8rem}dl dl{margin-left:.4rem}}
"""


def render(document: Schema, base_url: str) -> str:
    return "".join(_Page(document, base_url.rstrip("/")).parts())


class _Page:
    def __init__(self, document: Schema, base_url: str) -> None:
        self._document = document
        self._base = base_url
        self._groups: dict[str, list[tuple[str, str, Schema]]] = {}
        for path, operations in document["paths"].items():
            for method in METHODS:
                if method in operations:
                    tag = (operations[method].get("tags") or ["other"])[0]
                    self._groups.setdefault(tag, []).append((method, path, operations[method]))

    def parts(self) -> Iterator[str]:
        title = escape(self._document["info"]["title"])
        yield (
            '<!doctype html><html lang="en"><head><meta charset="utf-8">'
            '<meta name="viewport" content="width=device-width,initial-scale=1">'
            f'<title>{title} API</title><style>{STYLE}</style></head><body><div class="layout"><nav>'
        )
        for tag, operations in self._groups.items():
            yield f"<details open><summary>{escape(tag)}</summary><ul>"
            for method, path, _ in operations:
                label = f'<span class="{method}">{method.upper()}</span> {escape(path)}'
                yield f'<li><a href="#{_anchor(method, path)}">{label}</a></li>'
            yield "</ul></details>"
        yield f"</nav><main><h1>{title} API</h1>{self._introduction()}"
        for tag, operations in self._groups.items():
            yield f'<section><h2 id="{escape(tag)}">{escape(tag)}</h2>'
            for method, path, operation in operations:
                yield from self._operation(method, path, operation)
            yield "</section>"
        yield "</main></div></body></html>"

    def _introduction(self) -> str:
        key = "Authorization: Bearer re_…"
        return (
            f'<p class="dim">Version {escape(str(self._document["info"]["version"]))} · '
            '<a href="/openapi.json">openapi.json</a></p>'
            f"<p>Requests go to <code>{escape(self._base)}</code> and carry a key: <code>{key}</code>. Bodies are JSON.</p>"
            '<p>An error is always <code>{"statusCode", "name", "message"}</code>, and its message says what to change. '
            "429 says in <code>retry-after</code> how many seconds to wait; every answer tells in <code>ratelimit-*</code> "
            "what is left. Lists take <code>limit</code> (1 to 100) and <code>after</code> or <code>before</code> (an id), newest "
            "first. <code>Idempotency-Key</code> on a send makes it safe to repeat for 24 hours. <code>x-request-id</code> of an "
            "answer finds the call in the log.</p>"
        )

    def _operation(self, method: str, path: str, operation: Schema) -> Iterator[str]:
        yield (
            f'<details class="op" id="{_anchor(method, path)}"><summary><span class="m {method}">{method.upper()}</span> '
            f"<code>{escape(path)}</code></summary><div>{_prose(operation.get('description') or '')}"
        )
        parameters = operation.get("parameters") or []
        if parameters:
            yield "<h4>Parameters</h4><dl>"
            for each in parameters:
                where = "" if each["in"] == "query" else f" · {each['in']}"
                required = " · required" if each.get("required") else ""
                schema = self._resolve(each.get("schema") or {})
                text = each.get("description") or schema.get("description") or ""
                yield (
                    f"<dt><code>{escape(each['name'])}</code></dt><dd><span class=dim>{escape(self._type(schema))}"
                    f"{escape(where + required)}</span> {_code(text)}</dd>"
                )
            yield "</dl>"
        body = (operation.get("requestBody") or {}).get("content", {}).get("application/json", {}).get("schema")
        if body is not None:
            yield f"<h4>Body</h4>{self._fields(body)}"
        yield f"<h4>Example</h4><pre>{escape(self._curl(method, path, operation, body))}</pre><h4>Answers</h4>"
        yield from self._answers(operation)
        yield "</div></details>"

    def _answers(self, operation: Schema) -> Iterator[str]:
        errors = []
        for status, answer in sorted(operation.get("responses", {}).items()):
            content = answer.get("content", {})
            schema = content.get("application/json", {}).get("schema")
            if status >= "400" or (schema or {}).get("$ref", "").endswith("/Error"):
                errors.append((status, answer.get("description", "")))
                continue
            kinds = "" if schema is not None or not content else f" · {', '.join(content)}"
            yield f"<p><strong>{escape(status)}</strong> <span class=dim>{escape(answer.get('description', '') + kinds)}</span></p>"
            if schema is not None:
                sample = json.dumps(self._sample(schema), indent=2, ensure_ascii=False)
                yield f"{self._fields(schema)}<pre>{escape(sample)}</pre>"
        if errors:
            yield "<dl>"
            for status, text in errors:
                yield f"<dt><strong>{escape(status)}</strong></dt><dd>{_code(text)}</dd>"
            yield "</dl>"

    def _fields(self, schema: Schema, depth: int = 0) -> str:
        schema = self._resolve(schema)
        inner = self._object_in(schema)
        if depth >= MAX_DEPTH or inner is None or not inner.get("properties"):
            return "" if depth else f"<p class=dim>{escape(self._type(schema))}</p>"
        required = set(inner.get("required") or ())
        rows = []
        for name, field in inner["properties"].items():
            resolved = self._resolve(field)
            notes = self._type(resolved) + (" · required" if name in required else "")
            default = resolved.get("default")
            if default is not None:
                notes += f" · default {json.dumps(default, ensure_ascii=False)}"
            text = field.get("description") or resolved.get("description") or ""
            rows.append(
                f"<dt><code>{escape(name)}</code></dt><dd><span class=dim>{escape(notes)}</span> {_code(text)}</dd>"
                + self._fields(resolved, depth + 1)
            )
        return f"<dl>{''.join(rows)}</dl>"

    def _object_in(self, schema: Schema) -> Schema | None:
        """The object whose fields are worth showing: itself, an item of its list, one of its alternatives."""
        if schema.get("properties"):
            return schema
        if "items" in schema:
            return self._object_in(self._resolve(schema["items"]))
        for each in schema.get("anyOf") or schema.get("oneOf") or ():
            found = self._object_in(self._resolve(each))
            if found is not None:
                return found
        return None

    def _resolve(self, schema: Schema) -> Schema:
        for _ in range(20):
            reference = schema.get("$ref")
            if reference is None:
                break
            found: Any = self._document
            for step in reference.removeprefix("#/").split("/"):
                found = found[step]
            schema = {**found, **{name: value for name, value in schema.items() if name != "$ref"}}
        return schema

    def _type(self, schema: Schema) -> str:
        schema = self._resolve(schema)
        if "enum" in schema:
            return " | ".join(json.dumps(each, ensure_ascii=False) for each in schema["enum"])
        if "const" in schema:
            return json.dumps(schema["const"], ensure_ascii=False)
        alternatives = schema.get("anyOf") or schema.get("oneOf")
        if alternatives:
            return " | ".join(dict.fromkeys(self._type(each) for each in alternatives))
        kind = schema.get("type", "any")
        if isinstance(kind, list):
            return " | ".join(kind)
        if kind == "array":
            return f"list of {self._type(schema.get('items') or {})}"
        limits = [
            f"{words} {schema[name]}"
            for name, words in (("minLength", "min"), ("maxLength", "max"), ("minimum", "≥"), ("maximum", "≤"))
            if name in schema
        ]
        shown = f"{kind} ({schema['format']})" if "format" in schema else str(kind)
        return f"{shown}, {', '.join(limits)}" if limits else shown

    def _sample(self, schema: Schema, name: str = "", depth: int = 0) -> Any:
        schema = self._resolve(schema)
        for given in (
            (schema.get("examples") or [None])[0],
            schema.get("example"),
            schema.get("const"),
            schema.get("default"),
        ):
            if given is not None:
                return given
        if "enum" in schema:
            return schema["enum"][0]
        alternatives = schema.get("anyOf") or schema.get("oneOf")
        if alternatives:
            return self._sample(alternatives[0], name, depth)
        kind = schema.get("type")
        kind = kind[0] if isinstance(kind, list) else kind
        if kind == "object" or "properties" in schema:
            fields = schema.get("properties", {}) if depth < MAX_DEPTH else {}
            return {field: self._sample(inner, field, depth + 1) for field, inner in fields.items()}
        if kind == "array":
            sample = SAMPLES.get(name)
            return sample if isinstance(sample, list) else [self._sample(schema.get("items") or {}, name, depth + 1)]
        if name in SAMPLES and kind == "string" and isinstance(SAMPLES[name], str):
            return SAMPLES[name]
        if kind == "string":
            is_id = name == "id" or name.endswith("_id") or schema.get("format") == "uuid"
            is_time = name.endswith(("_at", "_date"))
            return "4ef9a417-02e9-4d39-ad75-9611e0fcc33c" if is_id else SAMPLES["created_at"] if is_time else "text"
        return {"integer": 1, "number": 1.0, "boolean": True}.get(kind or "")

    def _curl(self, method: str, path: str, operation: Schema, body: Schema | None) -> str:
        lines = [f"curl -X {method.upper()} {self._base}{path}"]
        if operation.get("security", True):
            lines.append("-H 'Authorization: Bearer re_…'")
        if body is not None:
            sample = self._asked(body)
            lines.append("-H 'Content-Type: application/json'")
            lines.append("-d '" + json.dumps(sample, ensure_ascii=False).replace("'", "'\\''") + "'")
        return " \\\n  ".join(lines)

    def _asked(self, schema: Schema) -> Any:
        """What must be given, and what makes an email one; without required fields, the first one."""
        schema = self._resolve(schema)
        inner = self._object_in(schema)
        if inner is None or not inner.get("properties"):
            return self._sample(schema)
        wanted = [name for name in inner["properties"] if name in (inner.get("required") or ())]
        wanted += ["html"] if "subject" in wanted and "html" in inner["properties"] else []
        wanted = wanted or list(inner["properties"])[:1]
        sample = {name: self._sample(inner["properties"][name], name) for name in wanted}
        return [sample] if schema.get("type") == "array" else sample


def _anchor(method: str, path: str) -> str:
    return method + re.sub(r"[^0-9A-Za-z]+", "-", path).rstrip("-")


def _code(text: str) -> str:
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", escape(text))


def _prose(text: str) -> str:
    return "".join(f"<p>{_code(each.strip())}</p>" for each in text.split("\n\n") if each.strip())
