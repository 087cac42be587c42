"""Reloading the application: which load counts when several are asked for, and watching files whose change asks for one."""

import asyncio
import os
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

from spoolnode.node.background import spawn
from spoolnode.node.config import Config

PATIENCE = 5.0
"""Seconds that a load gets at least, if a newer one is asked for meanwhile; then the newer one takes its place."""
LOOK_SECONDS = 1.0
"""Seconds between two looks at the files of `--touch-reload`."""

LoadAnswer = asyncio.Future[str]
"""Why the application does not load; empty if it was loaded."""
Stamp = tuple[int, ...] | None
"""Changes when a file changes; None if the file does not exist."""


class Reloads:
    """Loads the application, one load at a time, until the last load that was asked for is done.

    A load that hangs gives way to a newer one: after `PATIENCE`, or twice the time that the last good one took.
    """

    def __init__(
        self, load: Callable[[], Awaitable[None]], broken: type[Exception], room: Callable[[], Awaitable[None]],
        report: Callable[..., None],
    ) -> None:  # fmt: skip
        """Nothing is loaded yet.

        Args:
            load: loads the application and replaces the workers. If it is cancelled, it changes nothing.
            broken: the exception that it raises if the application does not load.
            room: returns when there is room for more workers.
        """
        self._load = load
        self._broken = broken
        self._room = room
        self._report = report
        self._loop = asyncio.get_running_loop()
        self._asked: list[LoadAnswer] = []
        self._newer = asyncio.Event()
        self._took = 0.0
        self._loading: asyncio.Task[None] | None = None
        self._is_first = False

    async def first(self) -> None:
        """The first load.

        Raises what `load` raises, unless a newer load was asked for meanwhile: then that one counts.
        """
        self._is_first = True
        try:
            while not await self._answers():
                pass
        finally:
            self._is_first = False
        self._go_on()

    def ask(self) -> LoadAnswer:
        """Asks to load the application as it is now. The answer comes when it, or a newer one, was loaded or did not load."""
        answer: LoadAnswer = self._loop.create_future()
        self._asked.append(answer)
        self._newer.set()
        self._go_on()
        return answer

    async def stop(self) -> None:
        """Loads no more, and gives up a load under way."""
        if self._loading is not None:
            self._loading.cancel()
            await asyncio.wait({self._loading})
        for answer in self._asked:
            answer.cancel()
        self._asked = []

    def _go_on(self) -> None:
        if self._asked and self._loading is None and not self._is_first:
            self._loading = spawn(self._load_what_was_asked_for())

    async def _load_what_was_asked_for(self) -> None:
        try:
            while self._asked:
                await self._room()
                self._report("reloading")
                await self._answers()
        finally:
            self._loading = None

    async def _answers(self) -> bool:
        """Loads once and answers all that asked before. Returns False if a newer load takes its place, and answers them."""
        asked, self._asked = self._asked, []
        try:
            if not await self._succeeds():
                self._asked = asked + self._asked
                return False
            reason = ""
            if not self._is_first:
                self._report("reloaded")
        except (self._broken, OSError) as error:
            if self._is_first:
                raise
            reason = str(error) if isinstance(error, self._broken) else f"no worker can be started: {error}"
            self._report("reload_failed", reason=reason, kept="the old workers go on")
        except asyncio.CancelledError:
            self._asked = asked + self._asked
            raise
        for answer in asked:
            if not answer.done():  # else its caller has stopped waiting
                answer.set_result(reason)
        return True

    async def _succeeds(self) -> bool:
        """Loads once. Returns False if a newer load takes its place. Raises what the load raises."""
        self._newer.clear()
        began = self._loop.time()
        load = asyncio.ensure_future(self._load())
        try:
            await self._until_superseded(load, began)
        finally:
            if not load.done():
                load.cancel()
                await asyncio.wait({load})
        if load.cancelled():
            self._report("reload_superseded", seconds=round(self._loop.time() - began, 1))
            return False
        try:
            load.result()
        except (self._broken, OSError):
            if self._is_first and self._newer.is_set():
                return False
            raise
        self._took = self._loop.time() - began
        return True

    async def _until_superseded(self, load: "asyncio.Future[None]", began: float) -> None:
        newer = asyncio.ensure_future(self._newer.wait())
        either: list[asyncio.Future[Any]] = [load, newer]
        try:
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        finally:
            newer.cancel()
        left = began + max(PATIENCE, 2 * self._took) - self._loop.time()
        if not load.done() and left > 0:
            await asyncio.wait({load}, timeout=left)


async def watch_source(directory: str, changed: Callable[[], object]) -> None:
    """`--reload`: calls `changed` whenever a .py file below `directory` was saved. Development only."""
    from watchfiles import PythonFilter, awatch  # noqa: PLC0415  # few nodes need it

    async for _ in awatch(directory, watch_filter=PythonFilter()):
        changed()


async def watch_files(before: dict[str, Stamp], changed: Callable[[str], object]) -> None:
    """`--touch-reload`: calls `changed` with the path whenever one of these files is touched, written, replaced or made.

    Args:
        before: the stamps of these files from before the load, by path.
    """
    while True:
        await asyncio.sleep(LOOK_SECONDS)
        for path, stamp in before.items():
            now = before[path] = await asyncio.to_thread(_stamp, path)
            if now not in (stamp, None):
                changed(path)


async def watch_sources(config: Config, home: str, ask: Callable[[], object], report: Callable[..., None]) -> None:
    """Begins to watch what `--reload` and `--touch-reload` name: returns once no change can be missed.

    `home`: the application's directory; `ask`: asks for a reload.
    """

    def touched(path: str) -> None:
        report("touched", file=path)
        ask()

    if config.reload:
        spawn(watch_source(home, ask))
    if config.touch_reload:
        spawn(watch_files(await stamps(config.touch_reload), touched))


async def stamps(paths: Iterable[str]) -> dict[str, Stamp]:
    """The stamps of these files now, for `watch_files`."""
    return {path: await asyncio.to_thread(_stamp, path) for path in paths}


def _stamp(path: str) -> Stamp:
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_mtime_ns, found.st_ino, found.st_dev, found.st_size
