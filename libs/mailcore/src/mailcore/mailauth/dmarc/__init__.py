"""DMARC (RFC 9989; records of RFC 7489 too): whether the domain that a mail names as its author has vouched for it.

record    the policy a domain publishes
walk      up the DNS tree: which record counts for a domain, and what is its organizational domain
author    the domains that a From field names, whoever reads it
evaluate  the verdict, from what SPF and DKIM have found

An identifier is aligned when it is the author's domain, or in relaxed mode one of the same organization. A mail passes when an
aligned identifier does. What becomes of one that fails is the receiver's own decision (flow.authenticate).
"""
