"""Pools, sources and warm-ups: from where mail leaves, and how much of it. The operator's alone (docs/sources.md)."""
