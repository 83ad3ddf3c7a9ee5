"""Values the chart is tried with: what it must take, what it must refuse and how, and mistakes that must be seen."""

from __future__ import annotations

from typing import Any

INLINE = {
    "encryptionKey": "0" * 64,
    "databaseUrl": "postgresql://postroom:service@db:5432/postroom",
    "migrateUrl": "postgresql://postgres:superuser@db:5432/postroom",
    "redisUrl": "redis://:redis@redis:6379/0",
}
MINIMAL: dict[str, Any] = {
    "publicUrl": "https://mail.example.com",
    "smtp": {"hostname": "mx.example.com"},
    "secrets": INLINE,
    "blobs": {"s3": {"bucket": "mail"}},
}
SCALED = {"enabled": True, "queueDepth": {"metric": "postroom_queue_depth", "selector": {"queue": "deliveries"}}}
PROCESS = {
    "autoscaling": SCALED,
    "env": {"POSTROOM_LOG__LEVEL": "debug"},
    "podAnnotations": {"example.com/team": "mail"},
    "podLabels": {"team": "mail"},
    "nodeSelector": {"kubernetes.io/os": "linux"},
    "tolerations": [{"key": "mail", "operator": "Exists"}],
    "affinity": {"nodeAffinity": {}},
    "priorityClassName": "high",
}
PEER = {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "monitoring"}}}
EVERYTHING: dict[str, Any] = {
    **MINIMAL,
    "fullnameOverride": "mail",
    "image": {"repository": "registry.example.com/postroom", "tag": "1.2.3", "pullSecrets": ["pull"]},
    "trustedProxies": ["10.0.0.0/8", "192.0.2.1"],
    "secrets": {
        **INLINE,
        "s3AccessKey": "a",
        "s3SecretKey": "b",
        "smarthostPassword": "c",
        "metricsAuthToken": "d",
        "rspamdPassword": "e",
        "spamhausPassword": "f",
        "aiApiKey": "g",
    },
    "blobs": {"s3": {"bucket": "mail", "prefix": "postroom/", "endpoint": "https://s3.example.com", "region": "eu"}},
    "smtp": {
        "hostname": "mx.example.com",
        "tlsSecret": "mx-tls",
        "proxyProtocol": "v2",
        "service": {
            "loadBalancerClass": "example.com/lb",
            "loadBalancerIP": "192.0.2.25",
            "loadBalancerSourceRanges": ["0.0.0.0/0"],
            "annotations": {"example.com/proxy-protocol": "v2"},
        },
    },
    "delivery": {"route": "smarthost", "smarthost": {"host": "relay.example.com", "port": 465, "username": "me"}},
    "dns": {"nameservers": ["192.0.2.53:53"]},
    "settings": {"POSTROOM_QUEUE__SWEEP_SECONDS": "5"},
    "http": {
        "service": {"annotations": {"example.com/a": "b"}},
        "ingress": {"enabled": True, "className": "nginx", "annotations": {"example.com/a": "b"}, "tlsSecret": "web"},
    },
    **dict.fromkeys(("api", "inboundSmtp", "outbound", "imapSync", "webhooks"), PROCESS),
    "tools": {"enabled": True},
    "serviceAccount": {"name": "postroom", "annotations": {"example.com/role": "mail"}},
    "networkPolicy": {
        "apiFrom": [PEER],
        "opsFrom": [PEER],
        "database": {"podLabels": {"cluster": "pg"}, "alsoFrom": [PEER]},
        "redis": {"podLabels": {"app": "valkey"}},
    },
    "serviceMonitor": {"enabled": True, "labels": {"release": "prometheus"}},
}
CASES: dict[str, dict[str, Any]] = {
    "only what is required": MINIMAL,
    "everything on": EVERYTHING,
    "an existing secret and claim, NodePort": {
        **MINIMAL,
        "secrets": {"existingSecret": "mine"},
        "blobs": {"existingClaim": "mail-rwx"},
        "smtp": {"hostname": "mx.example.com", "service": {"type": "NodePort", "nodePort": 30025}},
    },
    "everything optional off": {
        **MINIMAL,
        "migration": {"enabled": False},
        "smtp": {"hostname": "mx.example.com", "service": {"type": "ClusterIP"}},
        "serviceAccount": {"create": False, "name": "theirs"},
        "networkPolicy": {"enabled": False},
        "api": {"replicas": 0, "podDisruptionBudget": {"enabled": False}, "preStopSeconds": 0},
    },
}


def without(*path: str) -> dict[str, Any]:
    """The minimal values with one of them missing."""
    head, *rest = path
    return {**MINIMAL, head: {k: v for k, v in MINIMAL[head].items() if k not in rest}}


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "no encryption key": (without("secrets", "encryptionKey"), "secrets.encryptionKey is missing"),
    "no database": (without("secrets", "databaseUrl"), "secrets.databaseUrl is missing"),
    "no login for the migration": (without("secrets", "migrateUrl"), "secrets.migrateUrl is missing"),
    "no Redis": (without("secrets", "redisUrl"), "secrets.redisUrl is missing"),
    "no place for blobs": (without("blobs", "s3"), "Blobs have no place"),
    "two places for blobs": (
        {**MINIMAL, "blobs": {"s3": {"bucket": "mail"}, "existingClaim": "rwx"}},
        "blobs.existingClaim are both set",
    ),
    "two secrets": ({**MINIMAL, "secrets": {**INLINE, "existingSecret": "mine"}}, "existingSecret are both set"),
    "no public address": ({**MINIMAL, "publicUrl": ""}, "publicUrl is missing"),
    "no MX name": (without("smtp", "hostname"), "smtp.hostname is missing"),
    "a smart host without a host": ({**MINIMAL, "delivery": {"route": "smarthost"}}, "smarthost.host is missing"),
    "an unknown value": ({**MINIMAL, "replica": 3}, "'replica' not allowed"),
    "an unknown value deep inside": ({**MINIMAL, "api": {"replicaCount": 3}}, "'replicaCount' not allowed"),
    "a wrong type": ({**MINIMAL, "outbound": {"replicas": "two"}}, "got string, want integer"),
    "a key of the wrong length": ({**MINIMAL, "secrets": {**INLINE, "encryptionKey": "short"}}, "encryptionKey"),
    "a setting that is none": ({**MINIMAL, "settings": {"LOG_LEVEL": "debug"}}, "LOG_LEVEL"),
    "a drain that is eaten up": ({**MINIMAL, "api": {"preStopSeconds": 90}}, "api.preStopSeconds"),
}

PLANTED: dict[str, tuple[str, str, str, str]] = {
    'replicas: "two"': ("deployments.yaml", "replicas: {{ $v.replicas }}", 'replicas: "two"', "'two' is not of type"),
    "an unknown key": ("services.yaml", "clusterIP: None", "clusterIP: None\n  portss: []", "portss"),
    "a broken template": ("config.yaml", "kind: ConfigMap", "kind: {{ .Values.nothing.here }}", "nil pointer"),
    "a writable root": (
        "_helpers.tpl",
        "readOnlyRootFilesystem: true",
        "readOnlyRootFilesystem: false",
        "own file system",
    ),
    "a service that finds no pod": ("services.yaml", "component: inbound-smtp", "component: inbound", "selects no pod"),
    "a secret that is not made": ("secrets.yaml", "  redis-url:", "  redis-address:", "key redis-url"),
    "the superuser in a service": ("_helpers.tpl", '"redis-url" }}', '"redis-url" "X" "migrate-url" }}', "migrate-url"),
    "a name no service reads": (
        "_helpers.tpl",
        "POSTROOM_HTTP__PUBLIC_URL",
        "POSTROOM_PUBLIC_URL",
        "not in .env.example",
    ),
}
