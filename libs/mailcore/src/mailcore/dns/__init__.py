"""Names and answers of the DNS, as mail needs them.

names     a domain's one normal form: lower-case A-labels (IDNA 2008 with UTS 46, RFC 5890 to 5893, RFC 1035 limits)
resolver  the Resolver protocol; dnspython with our own cache behind it; the stand-in for tests
required  the records that a customer's domain publishes
mx        where mail for a domain goes next (RFC 5321 §5.1, RFC 7505)
tlsa      TLSA records of a mail host (RFC 7672)
mta_sts   MTA-STS records and policies (RFC 8461); tls_rpt: where TLS reports are wanted (RFC 8460)
"""
