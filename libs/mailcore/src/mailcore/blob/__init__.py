"""Large content outside the database: a local folder, S3 and its kin, memory for tests (obstore underneath).

A blob is written, and on a local folder fsynced with its folder, before the transaction that names it; a sweep removes blobs that
no row has named after a day. Keys are made by us (never by names from a mail): `<org>/<yyyy-mm>/<uuid>`.
"""
