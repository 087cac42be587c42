"""Which common store a command is about, and the store while the command runs."""

from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from spoolnode.cluster.store.interface import CommonStore

F = TypeVar("F", bound=Callable[..., Any])
T = TypeVar("T")


def store_option(function: F) -> F:
    """`--store`."""
    option = click.option(
        "--store", "url", required=True, metavar="URL", envvar="SPOOLNODE_STORE",
        help="nats://HOST[,HOST...] or postgresql://[USER@]HOST[,HOST...]/DATABASE (also: SPOOLNODE_STORE).",
    )  # fmt: skip
    return option(function)


def with_store(url: str, do: "Callable[[CommonStore], Coroutine[Any, Any, T]]", *, migrates: bool = False) -> T:
    """Does something with the store open. Its errors end the command with a sentence."""
    import asyncio

    from spoolnode.cluster.store.opening import open_store

    async def done() -> T:
        store = await open_store(url, migrates=migrates)
        try:
            return await do(store)
        finally:
            await store.close()

    return asyncio.run(done())
