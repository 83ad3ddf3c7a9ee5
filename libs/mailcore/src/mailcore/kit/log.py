"""Logging: structlog, one JSON object a line (or readable text), on standard output. Secrets are masked wherever they come."""

from __future__ import annotations

import logging
import re
import sys
from contextvars import ContextVar
from typing import Any

import structlog

# possessive, and begun once a run of characters: strangers' text is read once, whatever it is
_TOKEN = re.compile(
    r"re_[0-9A-Za-z]{8}_[0-9A-Za-z]{24}|whsec_[0-9A-Za-z+/=]{16,}|(?<=://)[^/@:\s]*+:[^/@\s]++(?=@)"
    r"|(?<![\w-])eyJ[\w-]++\.eyJ[\w-]++\.[\w-]+|(?<=postroom_session=)[\w-]+"
    r"|(?<=[?&]signature=)\w+|(?<=[?&]token=)[\w-]+"
)
_SECRET_NAMES = ("password", "secret", "token", "authorization", "encryption_key", "api_key")


def mask(text: str) -> str:
    """`text` without API keys, signing secrets and passwords in URLs."""
    return _TOKEN.sub("***", text)


def _mask_event(_: Any, __: str, event: dict[str, Any]) -> dict[str, Any]:
    for name, value in event.items():
        if any(secret in name for secret in _SECRET_NAMES):
            event[name] = "***"
        elif isinstance(value, str):
            event[name] = mask(value)
    return event


REQUEST_ID: ContextVar[str | None] = ContextVar("request_id", default=None)
"""Of the request in hand, on every line that is logged for it."""


def _add_request(_: Any, __: str, event: dict[str, Any]) -> dict[str, Any]:
    if (request_id := REQUEST_ID.get()) is not None:
        event.setdefault("request_id", request_id)
    return event


def configure(service: str, *, format: str = "json", level: str = "info") -> None:
    """Once a process, before anything logs. The standard library's loggers end in the same lines."""
    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        _add_request,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
        _mask_event,
    ]
    renderer: Any = structlog.processors.JSONRenderer() if format == "json" else structlog.dev.ConsoleRenderer()
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelName(level.upper())),
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    for noisy in ("httpx", "httpcore", "arq", "asyncio", "mail.log", "uvicorn.access"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    structlog.contextvars.bind_contextvars(service=service)


def logger(name: str) -> structlog.stdlib.BoundLogger:
    bound: structlog.stdlib.BoundLogger = structlog.get_logger(name)
    return bound
