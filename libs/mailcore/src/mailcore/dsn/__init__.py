"""What became of mail, told by others and by us: refusals, delivery reports, feedback reports.

classify   a reply that refuses → Kind: category, kind of bounce, the rule that decided; rules.toml holds the rules
parse      a delivery report in any form (report.py: what it says; status.py: RFC 3464; forms.py with forms.toml: words)
feedback   ARF (RFC 5965): somebody marked a mail as spam
compose    the delivery report that we owe to whoever handed a mail in (RFC 3461, RFC 3464)
wishes     what he asked to be told, as it is kept with the email (RFC 3461 §4)
tls_report reports about TLS (RFC 8460), ours and others'
verp       the return path that names a delivery, and that only we can make
"""
