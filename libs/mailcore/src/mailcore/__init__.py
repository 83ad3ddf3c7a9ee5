"""Postroom's mail system as a library.

Layers, each may import only those below it (import-linter holds it, `make arch`):

    flow                                                  the doors: submit, receive, route, mirror, settle
    store | blob | queue | transport | providers | scanners
    events                                                what webhooks carry
    mailauth | dsn                                        formats that prove or report
    mime                                                  compose, parse
    smtp                                                  addresses, replies, outcomes (no sockets)
    dns                                                   resolver, domain names
    kit                                                   no mail: clock, ids, errors, log, metrics, settings
"""
