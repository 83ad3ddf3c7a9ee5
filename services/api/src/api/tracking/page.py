"""The pages of unsubscribing: no script, nothing from elsewhere."""

from __future__ import annotations

POLICY = "default-src 'none'; style-src 'unsafe-inline'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"

_FRAME = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="robots" content="noindex"><title>Unsubscribe</title><style>
body {{ font: 1rem/1.5 system-ui, sans-serif; color-scheme: light dark; max-width: 32rem; margin: 15vh auto 0; padding: 0 1.5rem }}
h1 {{ font-size: 1.4rem }} button {{ font: inherit; padding: .6rem 1.4rem; cursor: pointer }}
</style></head><body><main>
CONTENT
</main></body></html>
"""

ASK = _FRAME.replace(
    "CONTENT",
    """<h1>Unsubscribe</h1>
<p><strong>{recipient}</strong> will get no more of these emails.</p>
<form method="post"><input type="hidden" name="List-Unsubscribe" value="One-Click"><button>Unsubscribe</button></form>""",
)
DONE = _FRAME.replace(
    "CONTENT",
    """<h1>Unsubscribed</h1>
<p><strong>{recipient}</strong> will get no more of these emails. One that is under way may still arrive.</p>""",
)
