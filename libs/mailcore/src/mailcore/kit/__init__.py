"""What every part needs and what knows no mail: clock, ids, errors, seal, log, metrics, settings, retry schedule, guarded HTTP client."""
