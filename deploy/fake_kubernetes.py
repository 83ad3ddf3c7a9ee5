"""As much of a Kubernetes API, on loopback and in memory, as real Helm needs to install and upgrade a chart.

It answers discovery, stores what is posted, refuses a second object of the same name (409) and finishes every Job at once.
It validates nothing: the check gives every object to the real schemas afterwards.
"""

from __future__ import annotations

import base64
import copy
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, cast
from urllib.parse import parse_qs, urlsplit

import yaml

Object = dict[str, Any]

RESOURCES = {
    "v1": {"secrets": "Secret", "configmaps": "ConfigMap", "services": "Service", "serviceaccounts": "ServiceAccount"},
    "apps/v1": {"deployments": "Deployment"},
    "batch/v1": {"jobs": "Job"},
    "networking.k8s.io/v1": {"ingresses": "Ingress", "networkpolicies": "NetworkPolicy"},
    "policy/v1": {"poddisruptionbudgets": "PodDisruptionBudget"},
    "autoscaling/v2": {"horizontalpodautoscalers": "HorizontalPodAutoscaler"},
    "monitoring.coreos.com/v1": {"servicemonitors": "ServiceMonitor"},
}
VERBS = ["create", "delete", "get", "list", "patch", "update", "watch"]


class Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Answer)
        self.objects: dict[str, Object] = {}
        self.received: list[Object] = []  # every object that was ever made, as it came, in order
        self.events: list[tuple[str, str, Object]] = []  # what happened, the path it happened to, the object
        self.changed = threading.Condition()
        self.stopping = False

    def __enter__(self) -> Server:
        threading.Thread(target=self.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        with self.changed:
            self.stopping = True
            self.changed.notify_all()
        self.shutdown()
        self.server_close()

    @property
    def kubeconfig(self) -> str:
        text: str = yaml.safe_dump(  # type: ignore[no-untyped-call]
            {
                "apiVersion": "v1",
                "kind": "Config",
                "clusters": [{"name": "c", "cluster": {"server": f"http://127.0.0.1:{self.server_port}"}}],
                "users": [{"name": "u", "user": {}}],
                "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
                "current-context": "x",
            }
        )
        return text

    def store(self, path: str, new: Object) -> Object:
        """Keeps the object as a cluster would show it. The caller holds `changed`."""
        if path not in self.objects:
            self.received.append(copy.deepcopy(new))
        new["metadata"].update(resourceVersion=str(len(self.events) + 1), uid=f"uid-{path}", generation=1)
        if new.get("kind") == "Job":
            done = [{"type": kind, "status": "True"} for kind in ("SuccessCriteriaMet", "Complete")]
            new["status"] = {"succeeded": 1, "conditions": done}
        self.events.append(("MODIFIED" if path in self.objects else "ADDED", path, new))
        self.objects[path] = new
        self.changed.notify_all()
        return new

    def remove(self, path: str) -> bool:
        """The caller holds `changed`."""
        gone = self.objects.pop(path, None)
        if gone:
            self.events.append(("DELETED", path, gone))
            self.changed.notify_all()
        return gone is not None


class Answer(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # a reply is two writes: without this each costs the client's delayed ACK, 40 ms
    server: Server

    def log_message(self, *_: object) -> None:
        pass

    def reply(self, code: int, body: Object) -> None:
        raw = json.dumps(body).encode()
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(raw)))
        self.end_headers()
        self.wfile.write(raw)

    def refuse(self, code: int, reason: str) -> None:
        message = f"{reason}: {self.path}"
        status = {"apiVersion": "v1", "kind": "Status", "status": "Failure"}
        self.reply(code, {**status, "code": code, "reason": reason, "message": message})

    def body(self) -> Object:
        raw = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        return secret_of(raw) if raw.startswith(b"k8s\0") else cast(Object, json.loads(raw or b"{}"))

    @property
    def where(self) -> str:
        return urlsplit(self.path).path.rstrip("/")

    def do_GET(self) -> None:
        with self.server.changed:
            found = discovery(self.where) or self.server.objects.get(self.where)
        kind = next((kinds[self.where.rsplit("/", 1)[-1]] for kinds in RESOURCES.values() if self.is_list(kinds)), None)
        if found:
            self.reply(200, found)
        elif kind:
            self.list_or_watch(kind)
        else:
            self.refuse(404, "NotFound")

    def is_list(self, kinds: dict[str, str]) -> bool:
        return self.where.rsplit("/", 1)[-1] in kinds

    def list_or_watch(self, kind: str) -> None:
        query = parse_qs(urlsplit(self.path).query)
        with self.server.changed:
            items = [(p, o) for p, o in self.server.objects.items() if self.wanted(p, o, query)]
            seen = len(self.server.events)
        of = items[0][1]["apiVersion"] if items else "v1"
        metadata = {"resourceVersion": str(seen)}
        if "watch" not in query:
            whole = {"apiVersion": of, "kind": kind + "List", "metadata": metadata, "items": [o for _, o in items]}
            self.reply(200, whole)
            return
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        if "sendInitialEvents" in query:
            end = {"annotations": {"k8s.io/initial-events-end": "true"}, **metadata}
            for _, found in items:
                self.chunk("ADDED", found)
            self.chunk("BOOKMARK", {"apiVersion": of, "kind": kind, "metadata": end})
        self.follow(seen, query)

    def follow(self, seen: int, query: dict[str, list[str]]) -> None:
        """Tells what happens from event number `seen` on, until one of the two sides goes."""
        while True:
            with self.server.changed:
                if len(self.server.events) == seen and not self.server.stopping:
                    self.server.changed.wait(60)
                news, seen = self.server.events[seen:], len(self.server.events)
            if self.server.stopping:
                self.close_connection = True
                return
            for what, path, found in news:
                if self.wanted(path, found, query) and not self.chunk(what, found):
                    return

    def wanted(self, path: str, found: Object, query: dict[str, list[str]]) -> bool:
        def pairs(parameter: str) -> dict[str, str]:
            return dict(pair.split("=", 1) for pair in query.get(parameter, [""])[0].split(",") if "=" in pair)

        metadata = found["metadata"]
        name = pairs("fieldSelector").get("metadata.name", metadata["name"])
        labels = pairs("labelSelector").items() <= metadata.get("labels", {}).items()
        return path.startswith(self.where + "/") and labels and name == metadata["name"]

    def chunk(self, what: str, found: Object) -> bool:
        raw = json.dumps({"type": what, "object": found}).encode() + b"\n"
        try:
            self.wfile.write(b"%x\r\n%s\r\n" % (len(raw), raw))
        except OSError:
            self.close_connection = True
            return False
        return True

    def do_POST(self) -> None:
        new = self.body()
        path = f"{self.where}/{new['metadata']['name']}"
        with self.server.changed:
            taken = path in self.server.objects
            stored = None if taken else self.server.store(path, new)
        if stored is None:
            self.refuse(409, "AlreadyExists")
        else:
            self.reply(201, stored)

    def do_PUT(self) -> None:
        new = self.body()
        with self.server.changed:
            self.reply(200, self.server.store(self.where, new))

    def do_PATCH(self) -> None:
        change = self.body()
        with self.server.changed:
            known = self.where in self.server.objects
            if known or "apply" in self.headers.get("Content-Type", ""):
                self.reply(200, self.server.store(self.where, merged(self.server.objects.get(self.where, {}), change)))
                return
        self.refuse(404, "NotFound")

    def do_DELETE(self) -> None:
        self.body()
        with self.server.changed:
            gone = self.server.remove(self.where)
        if gone:
            self.reply(200, {"apiVersion": "v1", "kind": "Status", "status": "Success"})
        else:
            self.refuse(404, "NotFound")


def merged(old: Any, change: Any) -> Any:
    """RFC 7396."""
    if not isinstance(old, dict) or not isinstance(change, dict):
        return change
    kept = {key: value for key, value in old.items() if change.get(key, value) is not None}
    return {**kept, **{key: merged(old.get(key), value) for key, value in change.items() if value is not None}}


def discovery(path: str) -> Object | None:
    """What a client asks first: which version, groups and resources there are."""
    if path == "/version":
        return {"major": "1", "minor": "34", "gitVersion": "v1.34.0"}
    if path == "/api":
        return {"kind": "APIVersions", "versions": ["v1"]}
    if path == "/apis":
        named = [{"groupVersion": gv, "version": gv.split("/")[1]} for gv in RESOURCES if "/" in gv]
        groups = [{"name": v["groupVersion"].split("/")[0], "versions": [v], "preferredVersion": v} for v in named]
        return {"kind": "APIGroupList", "apiVersion": "v1", "groups": groups}
    if path == "/openapi/v3":
        return {"paths": {root_of(gv)[1:]: {"serverRelativeURL": f"/openapi/v3{root_of(gv)}"} for gv in RESOURCES}}
    for group_version, kinds in RESOURCES.items():
        if path == f"/openapi/v3{root_of(group_version)}":
            return openapi(group_version, kinds)
        if path == root_of(group_version):
            resources = [
                {"name": plural, "singularName": kind.lower(), "namespaced": True, "kind": kind, "verbs": VERBS}
                for plural, kind in kinds.items()
            ]
            return {
                "kind": "APIResourceList", "apiVersion": "v1", "groupVersion": group_version, "resources": resources,
            }  # fmt: skip
    return None


def root_of(group_version: str) -> str:
    return "/api/v1" if group_version == "v1" else f"/apis/{group_version}"


def openapi(group_version: str, kinds: dict[str, str]) -> Object:
    """Says only that the server checks fields itself, which keeps the client from wanting every schema."""
    group, _, version = group_version.rpartition("/")
    patches = {
        f"{root_of(group_version)}/namespaces/{{namespace}}/{plural}/{{name}}": {
            "patch": {
                "parameters": [{"name": "fieldValidation", "in": "query", "schema": {"type": "string"}}],
                "x-kubernetes-group-version-kind": {"group": group, "version": version, "kind": kind},
            }
        }
        for plural, kind in kinds.items()
    }
    return {"openapi": "3.0.0", "info": {"title": "fake", "version": "v1"}, "paths": patches}


def fields(raw: bytes) -> list[tuple[int, bytes]]:
    """The length-delimited fields of a protobuf message (all that a Secret has; numbers are skipped)."""
    found, at = [], 0

    def number() -> int:
        nonlocal at
        value = shift = 0
        while True:
            byte = raw[at]
            at += 1
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return value

    while at < len(raw):
        key = number()
        if key & 7 == 0:
            number()
        elif key & 7 == 2:
            length = number()
            found.append((key >> 3, raw[at : at + length]))
            at += length
        else:
            raise ValueError(f"wire type {key & 7} is not expected in a Secret")
    return found


def secret_of(raw: bytes) -> Object:
    """A Secret as clients send it: `k8s\\0`, then runtime.Unknown{raw=2: core.Secret{metadata=1, data=2, type=3}}."""
    secret = fields(dict(fields(raw[4:]))[2])
    metadata = fields(dict(secret)[1])
    pair = [dict(fields(value)) for number, value in metadata if number == 11]
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {
            "name": dict(metadata)[1].decode(),
            "namespace": dict(metadata).get(3, b"default").decode(),
            "labels": {label[1].decode(): label.get(2, b"").decode() for label in pair},
        },
        "data": {
            entry[1].decode(): base64.b64encode(entry.get(2, b"")).decode()
            for entry in (dict(fields(value)) for number, value in secret if number == 2)
        },
        "type": dict(secret).get(3, b"Opaque").decode(),
    }
