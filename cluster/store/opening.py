"""From the address of a common store to its driver. Each driver is an extra, loaded only when it is asked for."""

from spoolnode.cluster.store.interface import CommonStore, StoreUnfit

FORM = "postgresql://[USER@]HOST[,HOST...]/DATABASE"
"""The form of an address."""


async def open_store(url: str, *, migrates: bool = False) -> CommonStore:
    """The store at an address, ready for use. `migrates`: makes its tables those of this version first.

    Raises `StoreAway`, `StoreUnfit`.
    """
    scheme = url.partition("://")[0]
    if scheme not in ("postgresql", "postgres"):
        raise StoreUnfit(f"{scheme[:20]!r} is not a kind of store; the address of one is {FORM}")
    try:
        from spoolnode.cluster.store.postgresql import PostgresStore  # noqa: PLC0415  # an extra
    except ModuleNotFoundError as error:
        if error.name != "psycopg":
            raise
        raise StoreUnfit("a store in PostgreSQL needs the package psycopg: pip install 'spoolnode[postgresql]'") from error
    return await PostgresStore.open(url, migrates=migrates)
