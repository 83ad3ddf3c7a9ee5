"""The vendors, by the name that a way has as its kind. A new one is a folder beside this file and a line here."""

from __future__ import annotations

from mailcore.providers.base import Account
from mailcore.providers.cloudflare import Cloudflare
from mailcore.providers.mailgun import Mailgun
from mailcore.providers.postmark import Postmark
from mailcore.providers.resend import Resend
from mailcore.providers.sendgrid import SendGrid
from mailcore.providers.ses import Ses

VENDORS: dict[str, type[Account]] = {
    account.vendor: account for account in (Resend, SendGrid, Mailgun, Postmark, Ses, Cloudflare)
}
