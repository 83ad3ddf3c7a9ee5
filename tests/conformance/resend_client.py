"""What an application does with `resend` from PyPI. Prints what it was told, as JSON."""

import json

import resend

params = {
    "from": "Acme <hello@postroom.test>",
    "to": ["python-one@example.com"],
    "subject": "Grüße from python",
    "html": "<p>Hello</p>",
    "headers": {"X-Entity-Ref-ID": "42"},
    "tags": [{"name": "category", "value": "test"}],
    "attachments": [{"filename": "note.txt", "content": list(b"hi there")}],
}
sent = resend.Emails.send(params, {"idempotency_key": "python/1"})
again = resend.Emails.send(params, {"idempotency_key": "python/1"})
batch = resend.Batch.send(
    [{"from": "hello@postroom.test", "to": f"python-batch{n}@example.com", "subject": "b", "text": "b"} for n in (1, 2)]
)
got = resend.Emails.get(sent["id"])
listed = resend.Emails.list({"limit": 50})
try:
    resend.Emails.send({**params, "to": "nobody"})
    refused = None
except resend.exceptions.ValidationError as error:
    refused = str(error)
domain = resend.Domains.create({"name": "python.example"})
resend.Domains.verify(domain["id"])
resend.Domains.get(domain["id"])
resend.Domains.list()
resend.Domains.remove(domain["id"])
key = resend.ApiKeys.create({"name": "python"})
resend.ApiKeys.list()
deleted = resend.ApiKeys.remove(key["id"])
print(
    json.dumps(
        {
            "sent": sent["id"],
            "again": again["id"],
            "batch": [each["id"] for each in batch["data"]],
            "got": {name: got[name] for name in ("id", "to", "message_id")},
            "listed": [each["id"] for each in listed["data"]],
            "refused": refused,
            "domain": {"name": domain["name"], "records": [dict(record) for record in domain["records"]]},
            "key_deleted": True if deleted is None else deleted.get("deleted", True),
        }
    )
)
