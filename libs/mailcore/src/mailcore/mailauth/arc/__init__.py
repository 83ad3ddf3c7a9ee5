"""Authenticated Received Chains (RFC 8617): what each forwarder saw of a message, sealed.

chain     the ARC sets of a message, as they stand
validate  whether they hold
seal      one more set, ours

A set is three fields with the same i=: ARC-Authentication-Results (what its sealer found), ARC-Message-Signature (the message
as it left there) and ARC-Seal (all sets up to there).
"""
