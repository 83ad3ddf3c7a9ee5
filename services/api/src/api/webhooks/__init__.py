"""Endpoints that events are posted to (resend.md §10.1). The posting itself is services/webhooks."""
