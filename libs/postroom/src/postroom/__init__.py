"""The `postroom` command and the local stack.

`postroom up` is a whole installation on one machine: embedded Postgres and Valkey, the migration, the first organization,
a catcher for outgoing mail, a small authoritative DNS, and every service, watched and started again when one dies.
The same command migrates, sets up and examines an installation that runs elsewhere.

    cli.py         what can be typed
    settings.py    the only reader of the environment here
    setup.py       first organization, admin, API key, the lab's domain
    doctor.py      what is wrong with this installation, a line of advice each
    local/         the parts that `up` starts itself
"""

__version__ = "0.1.0"
