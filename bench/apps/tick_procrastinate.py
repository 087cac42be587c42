"""The same as a task of Procrastinate, asynchronous: that spares it a thread for each."""

import os

import procrastinate
import tick as plain

app = procrastinate.App(connector=procrastinate.PsycopgConnector(conninfo=os.environ["BENCH_DATABASE"]))


@app.task
async def tick(name: str, system: str, tizio: str) -> None:
    """Has succeeded."""
    plain.tick()


TASK = {"name": "Serena", "system": "Linux", "tizio": "Caio"}


def send() -> None:
    """Sends one: it is committed then."""
    tick.defer(**TASK)


def send_many(count: int) -> None:
    """Sends so many in one call."""
    tick.batch_defer(*[TASK] * count)
