"""imap-sync: keeps users' IMAP accounts in step.

    settings.py   what it reads from the environment
    main.py       the composition root
    runner.py     claims accounts that are due, mirrors each, writes down how it went

The mirror itself is mailcore.flow.mirror, the protocol mailcore.transport.imap.
"""
