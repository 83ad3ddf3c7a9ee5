"""The integration tests' Postgres and Valkey, for faults that need one process and not a whole stack."""

from integration.conftest import (  # noqa: F401
    admin,
    database,
    database_url,
    domain,
    keyring,
    make_domain,
    make_org,
    org,
    postgres_server,
    redis_server,
    redis_url,
    ringer,
    store,
)
