"""The published metrics. Names are fixed: dashboards and autoscalers hang on them."""

from __future__ import annotations

from prometheus_client import Counter, Gauge, Histogram

SUBMITS = Counter("postroom_submits", "Emails taken for sending", ["door"])
DELIVERIES = Counter("postroom_deliveries", "Attempts by outcome", ["outcome"])
DELIVERY_SECONDS = Histogram(
    "postroom_delivery_seconds",
    "Seconds from submit to the final outcome",
    buckets=(0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 1800, 7200, 43200, 345600),
)
QUEUE_DEPTH = Gauge("postroom_queue_depth", "Rows waiting", ["queue"])
QUEUE_AGE = Gauge("postroom_queue_age_seconds", "Seconds since the longest-due row was due", ["queue"])
ARRIVALS = Counter("postroom_arrivals", "Mails taken in", ["door"])
ARRIVAL_REPEATS = Counter("postroom_arrival_repeats", "Mails handed over again and not stored twice", ["door"])
SCANS = Counter("postroom_scans", "Answers of scanners about mail that arrived", ["scanner", "verdict"])
SCAN_SECONDS = Histogram(
    "postroom_scan_seconds",
    "Seconds a scanner took for a mail",
    ["scanner"],
    buckets=(0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30),
)
WEBHOOK_POSTS = Counter("postroom_webhook_posts", "Webhook attempts by outcome", ["outcome"])
TRACKING_HITS = Counter("postroom_tracking_hits", "Opens and clicks by what became of them", ["kind", "outcome"])
SYNC_LAG = Gauge("postroom_sync_lag_seconds", "Seconds since the account synchronised longest ago was in step")
DB_POOL_IN_USE = Gauge("postroom_db_pool_in_use", "Database connections in use by this process")
LOOP_LAG = Gauge("postroom_loop_lag_seconds", "By how much the event loop was late at its last tick")
RUNNER_FAILURES = Gauge("postroom_runner_failures", "Rounds of a runner that failed in a row", ["runner"])
LOGS_DROPPED = Counter("postroom_logs_dropped", "API calls that are missing in the log of calls", ["reason"])
RETENTION_MONTHS = Counter("postroom_retention_months", "Months of history that were dropped, by kind", ["kind"])
RETENTION_BLOBS = Counter("postroom_retention_blobs", "Blobs that were deleted with the mail of dropped months")
AUTH_FAILURES = Counter("postroom_auth_failures", "Requests with a key, token or cookie that opened nothing")
WARMUP_CAP = Gauge("postroom_warmup_cap", "Mails that may leave today, of what is warmed up", ["subject"])
WARMUP_USED = Gauge("postroom_warmup_used", "Mails that have left today, of what is warmed up", ["subject"])
WARMUP_PAUSED = Gauge("postroom_warmup_paused", "1: it is paused, for bad signs or by the operator", ["subject"])
HEALTH_FINDINGS = Gauge("postroom_health_findings", "What the last look at sending found, by this process", ["status"])
ALARMS = Counter("postroom_alarms", "Alarms about domains and API keys, and what was done", ["kind", "action"])
