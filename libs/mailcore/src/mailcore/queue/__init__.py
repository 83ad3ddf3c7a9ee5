"""Redis as a doorbell (DESIGN §1, ADR 0001): bells that wake resident runners, chores whose truth is a row.

jobs.py is the contract: every bell and chore, who rings it, who serves it, what makes it safe to run twice. bell.py rings.
"""
