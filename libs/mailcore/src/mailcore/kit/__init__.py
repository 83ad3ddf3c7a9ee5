"""What every part needs and what knows no mail.

clock, ids, errors, seal (secrets at rest), log, metrics, settings, retry schedules, failpoints, the guarded HTTP client.
"""
