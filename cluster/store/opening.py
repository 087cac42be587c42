"""From the address of a common store to its driver. Each driver is an extra, loaded only when it is asked for."""

from spoolnode.cluster.store.interface import CommonStore, StoreUnfit

FORM = "nats://HOST[,HOST...] or postgresql://[USER@]HOST[,HOST...]/DATABASE"
"""The form of an address."""


async def open_store(url: str, *, migrates: bool = False) -> CommonStore:
    """The store at an address, ready for use. `migrates`: makes its stream or its tables those of this version first.

    Raises `StoreAway`, `StoreUnfit`.
    """
    scheme = url.partition("://")[0]
    try:
        if scheme == "nats":
            from spoolnode.cluster.store.nats import NatsStore  # noqa: PLC0415  # an extra

            return await NatsStore.open(url, migrates=migrates)
        if scheme in ("postgresql", "postgres"):
            from spoolnode.cluster.store.postgresql import PostgresStore  # noqa: PLC0415  # an extra

            return await PostgresStore.open(url, migrates=migrates)
    except ModuleNotFoundError as error:
        package, extra = _EXTRAS.get(error.name or "", ("", ""))
        if not package:
            raise
        raise StoreUnfit(f"a store at {scheme}:// needs the package {package}: pip install 'spoolnode[{extra}]'") from error
    raise StoreUnfit(f"{scheme[:20]!r} is not a kind of store; the address of one is {FORM}")


_EXTRAS = {"nats": ("nats-py", "nats"), "psycopg": ("psycopg", "postgresql")}
"""Of each module that a driver needs, its package and our extra."""
