"""Outbound: signs and delivers what is due, by MX, by smart host, or to the catcher (RFC 5321 §4.5.4.1, RFC 6376).

runner    woken by bell or sweep: due lanes, their sites, dead workers' rows
routes    recipient domain → site and next hops
deliver   a site at work: claim, compose, transport, outcomes
composer  stored content → signed bytes; signer keeps the keys, verp makes the envelope
signers   child processes that do it (signing)
gate      `dot_sent` before the final dot
settler   outcomes → commits
chores    verify a domain, upkeep
"""
