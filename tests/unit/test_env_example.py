"""`.env.example` names every setting that the code reads, and no other."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from pydantic import BaseModel

import api.settings
import imap_sync.settings
import inbound_smtp.settings
import outbound.settings
import webhooks.settings

ROOT = Path(__file__).parents[2]
SETTINGS = [module.settings.Settings for module in (api, inbound_smtp, outbound, imap_sync, webhooks)]
SUPERVISOR = {
    f"POSTROOM_{service}__PROCESSES" for service in ("API", "INBOUND_SMTP", "OUTBOUND", "IMAP_SYNC", "WEBHOOKS")
}


def _names(model: type[BaseModel], prefix: str) -> Iterator[str]:
    for name, field in model.model_fields.items():
        inner = field.annotation
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            yield from _names(inner, f"{prefix}{name}__")
        else:
            yield (prefix + name).upper()


def test_the_example_is_complete_and_true() -> None:
    text = (ROOT / ".env.example").read_text()
    listed = set(re.findall(r"^#? ?(POSTROOM_[A-Z0-9_]+)=", text, re.MULTILINE))
    read = {name for model in SETTINGS for name in _names(model, "POSTROOM_")} | SUPERVISOR | {"POSTROOM_CONFIG"}
    assert read - listed == set(), "settings that .env.example lacks"
    assert listed - read == set(), "names in .env.example that nothing reads"
