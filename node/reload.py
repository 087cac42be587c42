"""`--reload`: notices that source files changed. Development only."""

from collections.abc import Callable

from watchfiles import PythonFilter, awatch


async def watch_source(directory: str, changed: Callable[[], None]) -> None:
    """Calls `changed` whenever a .py file below `directory` was saved."""
    async for _ in awatch(directory, watch_filter=PythonFilter()):
        changed()
