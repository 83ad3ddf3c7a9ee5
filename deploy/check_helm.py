"""`deploy/check helm`: the chart in real Helm, its objects against Kubernetes' schemas and our rules."""

from __future__ import annotations

import asyncio
import base64
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import helm_sdkpy
from check_helm_cases import CASES, EVERYTHING, INLINE, MINIMAL, PLANTED, REFUSED
from check_report import Report
from fake_kubernetes import Object, Server
from kubernetes_validate.utils import SchemaNotFoundError, ValidationError, latest_version, validate

ROOT = Path(__file__).resolve().parents[1]
CHART = ROOT / "deploy/helm/postroom"
PROCESSES = sorted(folder.parent.name for folder in ROOT.glob("services/*/pyproject.toml"))
VERSIONS = ("1.29", latest_version())  # the oldest that Chart.yaml takes, and the newest
NO_SCHEMA = {"ServiceMonitor"}  # the Prometheus operator's


@contextmanager
def quiet() -> Iterator[None]:
    """Helm's library logs to the process' stderr; its errors come as exceptions all the same."""
    kept = os.dup(2)
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(null)


Outcome = list[Object] | str


async def install(values: dict[str, Any], chart: Path = CHART, then: dict[str, Any] | None = None) -> Outcome:
    """Installs the chart, and upgrades it when `then` is given: every object the API received, or Helm's error."""
    with Server() as server:
        configuration = helm_sdkpy.Configuration(namespace="mail", kubeconfig=server.kubeconfig)
        try:
            await helm_sdkpy.Install(configuration).run("post", str(chart), values=values, wait=False, timeout=30)
            if then:
                await helm_sdkpy.Upgrade(configuration).run("post", str(chart), values=then, wait=False, timeout=30)
        except helm_sdkpy.HelmError as error:
            return str(error)
        return [o for o in server.received if o.get("type") != "helm.sh/release.v1"]


async def side_by_side(*installs: Coroutine[Any, Any, Outcome]) -> list[Outcome]:
    """Six at a time: Helm mostly waits for its hooks."""
    turn = asyncio.Semaphore(6)

    async def one(coroutine: Coroutine[Any, Any, Outcome]) -> Outcome:
        async with turn:
            return await coroutine

    return await asyncio.gather(*map(one, installs))


def against_schemas(objects: list[Object]) -> Iterator[str]:
    for found in objects:
        for version in VERSIONS:
            try:
                validate(found, version, strict=True)
            except ValidationError as error:
                where = ".".join(map(str, error.path))
                yield f"{name_of(found)} against {version}: {where}: {error.message}"
            except SchemaNotFoundError as error:
                if found["kind"] not in NO_SCHEMA:
                    yield str(error.message)


def name_of(found: Object) -> str:
    return f"{found['kind']}/{found['metadata']['name']}"


def component_of(pod: Object) -> str:
    return str(pod["metadata"]["labels"]["app.kubernetes.io/component"])


def pods_of(objects: list[Object]) -> list[tuple[Object, Object]]:
    return [(o, o["spec"]["template"]) for o in objects if o["kind"] in ("Deployment", "Job")]


def against_rules(objects: list[Object], values: dict[str, Any]) -> Iterator[str]:
    """What no schema knows: that the parts fit together, and what a pod of ours must have."""
    deployments = {o["metadata"]["name"]: o for o in objects if o["kind"] == "Deployment"}
    for process in PROCESSES:
        if not any(name.endswith(f"-{process}") for name in deployments):
            yield f"services/{process} has no Deployment"
    secrets = {o["metadata"]["name"]: o["data"] for o in objects if o["kind"] == "Secret"}
    existing = values["secrets"].get("existingSecret")
    known = set(re.findall(r"^#? ?(POSTROOM_\w+)=", (ROOT / ".env.example").read_text(), re.MULTILINE))
    for config in (o["data"] for o in objects if o["kind"] == "ConfigMap"):
        yield from (f"the setting {name} is not in .env.example" for name in config if name not in known)
    for owner, pod in pods_of(objects):
        yield from pod_rules(owner, pod)
        for variable in pod["spec"]["containers"][0]["env"]:
            reference = variable.get("valueFrom", {}).get("secretKeyRef", {})
            if variable["name"] not in known:
                yield f"{name_of(owner)}: {variable['name']} is not in .env.example"
            if reference.get("key") == "migrate-url" and component_of(pod) not in ("migration", "tools"):
                yield f"{name_of(owner)} is given migrate-url"
            made_here = reference and not reference.get("optional") and reference["name"] != existing
            if made_here and reference["key"] not in secrets.get(reference["name"], {}):
                yield f"{name_of(owner)}: no key {reference['key']} in secret {reference['name']}"
    pods = [pod for owner, pod in pods_of(objects) if owner["kind"] == "Deployment"]
    for found in objects:
        if found["kind"] == "Service":
            yield from service_rules(found, pods)
        if found["kind"] == "HorizontalPodAutoscaler":
            target = found["spec"]["scaleTargetRef"]["name"]
            if target not in deployments or "replicas" in deployments[target]["spec"]:
                yield f"{name_of(found)}: {target} is missing or fixes its own replicas"
        if found["kind"] == "PodDisruptionBudget" and not chosen(found["spec"]["selector"]["matchLabels"], pods):
            yield f"{name_of(found)} selects no pod"


def chosen(labels: dict[str, str], pods: list[Object]) -> list[Object]:
    return [pod for pod in pods if labels.items() <= pod["metadata"]["labels"].items()]


def service_rules(found: Object, pods: list[Object]) -> Iterator[str]:
    selected = chosen(found["spec"]["selector"], pods)
    if not selected:
        yield f"{name_of(found)} selects no pod"
    for pod in selected:
        names = {port["name"] for port in pod["spec"]["containers"][0].get("ports", [])}
        for port in found["spec"]["ports"]:
            if port["targetPort"] not in names:
                yield f"{name_of(found)}: no port {port['targetPort']} in {sorted(names)}"
    exposed = found["spec"].get("type") in ("LoadBalancer", "NodePort")
    if exposed and found["spec"].get("externalTrafficPolicy") != "Local":
        yield f"{name_of(found)} loses the sender's address"


def pod_rules(owner: Object, pod: Object) -> Iterator[str]:
    name, spec = name_of(owner), pod["spec"]
    (container,) = spec["containers"]
    if not spec["securityContext"]["runAsNonRoot"] or not spec["securityContext"]["runAsUser"]:
        yield f"{name} may run as root"
    if spec["securityContext"]["seccompProfile"] != {"type": "RuntimeDefault"}:
        yield f"{name} has no seccomp profile"
    if spec["automountServiceAccountToken"] is not False:
        yield f"{name} mounts a token"
    context = container["securityContext"]
    if context["allowPrivilegeEscalation"] or context["capabilities"] != {"drop": ["ALL"]}:
        yield f"{name} keeps capabilities"
    if not context["readOnlyRootFilesystem"]:
        yield f"{name} may write to its own file system"
    if "memory" not in container["resources"]["limits"]:
        yield f"{name} has no memory limit"
    component = component_of(pod)
    if component in PROCESSES:
        for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
            if container[probe]["httpGet"]["port"] != "ops":
                yield f"{name}: {probe} is not on the operations port"
        if component == "outbound":
            drain = {v["name"]: v.get("value") for v in container["env"]}.get("POSTROOM_OUTBOUND__DRAIN_SECONDS", "0")
            if not 600 < int(drain) < spec["terminationGracePeriodSeconds"]:
                yield f"{name} drains {drain} s: a peer may take 600 s to answer the final dot"


def order_rules(objects: list[Object]) -> Iterator[str]:
    """Hooks first: the migration's secret, the migration, and only then what needs the new schema."""
    kinds = [o["kind"] for o in objects]
    if kinds[:2] != ["Secret", "Job"]:
        yield f"the migration does not come first: {kinds}"
    job = objects[1]
    hook = job["metadata"].get("annotations", {}).get("helm.sh/hook")
    if hook != "pre-install,pre-upgrade":
        yield f"the migration is the hook {hook}"


def everything_wrong(outcome: Outcome, values: dict[str, Any]) -> list[str]:
    if isinstance(outcome, str):
        return [outcome]
    return [*against_schemas(outcome), *against_rules(outcome, values)]


async def check_lint(report: Report) -> None:
    result = await helm_sdkpy.Lint(helm_sdkpy.Configuration(namespace="mail")).run(str(CHART))  # type: ignore[no-untyped-call]
    bad = [m for m in result["Messages"] or [] if m["Severity"] > 1]  # 1 is advice: no icon
    report.line("helm lint", [str(m) for m in [*bad, *(result["Errors"] or [])]])


async def check_cases(report: Report) -> None:
    upgrade = install(MINIMAL, then=EVERYTHING)
    *outcomes, upgraded = await side_by_side(*(install(values) for values in CASES.values()), upgrade)
    for (name, values), outcome in zip(CASES.items(), outcomes, strict=True):
        count = len(outcome) if isinstance(outcome, list) else 0
        report.line(f"helm install with {name}: {count} objects", everything_wrong(outcome, values))
        if name == "only what is required" and isinstance(outcome, list):
            report.line("the migration runs first", order_rules(outcome))
        if name == "everything on" and isinstance(outcome, list):
            report.line("values arrive where they belong", arrived(outcome))
    report.line("helm upgrade from the first to the second", everything_wrong(upgraded, EVERYTHING))
    jobs = [o for o in upgraded if isinstance(o, dict) and o["kind"] == "Job"]
    report.line("an upgrade migrates again", [] if len(jobs) == 2 else [f"{len(jobs)} jobs"])


def arrived(objects: list[Object]) -> Iterator[str]:
    by_name = {name_of(o): o for o in objects}
    config = by_name["ConfigMap/mail"]["data"]
    expected = {
        "POSTROOM_BLOB__URL": "s3://mail/postroom",
        "POSTROOM_BLOB__S3_ENDPOINT": "https://s3.example.com",
        "POSTROOM_OUTBOUND__ROUTE": "smarthost",
        "POSTROOM_OUTBOUND__SMARTHOST_PORT": "465",
        "POSTROOM_HTTP__TRUSTED_PROXIES": "10.0.0.0/8,192.0.2.1",
        "POSTROOM_SMTP__PROXY_PROTOCOL": "v2",
        "POSTROOM_QUEUE__SWEEP_SECONDS": "5",
    }
    yield from (f"{k} is {config.get(k)!r}, not {v!r}" for k, v in expected.items() if config.get(k) != v)
    if base64.b64decode(by_name["Secret/mail"]["data"]["encryption-key"]).decode() != INLINE["encryptionKey"]:
        yield "the encryption key is not what was given"
    if by_name["Ingress/mail"]["spec"]["rules"][0]["host"] != "mail.example.com":
        yield "the Ingress is not for publicUrl's host"
    smtp = by_name["Deployment/mail-inbound-smtp"]["spec"]["template"]["spec"]
    if smtp["containers"][0]["image"] != "registry.example.com/postroom-inbound-smtp:1.2.3":
        yield f"the image is {smtp['containers'][0]['image']}"
    if not any(v.get("secret", {}).get("secretName") == "mx-tls" for v in smtp["volumes"]):
        yield "the certificate is not mounted"


async def check_refusals(report: Report) -> None:
    outcomes = await side_by_side(*(install(values) for values, _ in REFUSED.values()))
    for (name, (_, words)), outcome in zip(REFUSED.items(), outcomes, strict=True):
        report.must_see(name, [outcome] if isinstance(outcome, str) else [], words)


async def check_planted(report: Report) -> None:
    with tempfile.TemporaryDirectory() as folder:
        charts = [plant(mistake, Path(folder, str(number))) for number, mistake in enumerate(PLANTED)]
        outcomes = await side_by_side(*(install(MINIMAL, chart) for chart in charts))
    for (name, (_, _, _, words)), outcome in zip(PLANTED.items(), outcomes, strict=True):
        report.must_see(name, everything_wrong(outcome, MINIMAL), words)


def plant(mistake: str, folder: Path) -> Path:
    """A copy of the chart with that mistake in it."""
    file, old, new, _ = PLANTED[mistake]
    shutil.copytree(CHART, folder / "postroom")
    template = folder / "postroom/templates" / file
    text = template.read_text()
    assert old in text, f"the mistake {mistake!r} can no longer be planted"
    template.write_text(text.replace(old, new))
    return folder / "postroom"


async def check() -> int:
    report = Report("helm")
    with quiet():
        await check_lint(report)
        await check_cases(report)
        await check_refusals(report)
        await check_planted(report)
    return report.close()


if __name__ == "__main__":
    sys.exit(asyncio.run(check()))
