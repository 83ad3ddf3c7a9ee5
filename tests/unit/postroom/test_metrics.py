from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from postroom.local.metrics import merge


def exposition(sent: int) -> bytes:
    registry = CollectorRegistry()
    Counter("mails", "Mails, by outcome", ["outcome"], registry=registry).labels('a "quoted" } one').inc(sent)
    Gauge("lag_seconds", "Lag", registry=registry).set(0.5)
    Histogram("took_seconds", "Took", registry=registry, buckets=(1, 2)).observe(1.5)
    return generate_latest(registry)


def test_families_of_all_processes_stand_together() -> None:
    text = merge({"api": exposition(1), "outbound": exposition(2)}).decode()
    families = {family.name: family for family in text_string_to_metric_families(text)}
    assert text.count("# TYPE mails_total counter") == 1
    by_process = {s.labels["process"]: s.value for s in families["mails"].samples if s.name == "mails_total"}
    assert by_process == {"api": 1.0, "outbound": 2.0}
    assert {s.labels["outcome"] for s in families["mails"].samples} == {'a "quoted" } one'}
    assert {s.labels["process"] for s in families["lag_seconds"].samples} == {"api", "outbound"}
    assert len([s for s in families["took_seconds"].samples if s.name == "took_seconds_bucket"]) == 6


def test_nothing_is_an_empty_exposition() -> None:
    assert merge({}) == b""
    assert merge({"api": b""}) == b""


def test_a_sample_without_head_or_with_empty_labels_is_kept() -> None:
    assert merge({"api": b"up 1\nup{} 2\n"}) == b'up{process="api"} 1\nup{process="api"} 2\n'
