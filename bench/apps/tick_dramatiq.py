"""The same as an actor of dramatiq, with the broker and the middleware that it has by default."""

import os

import dramatiq
import tick as app
from dramatiq.brokers.redis import RedisBroker

dramatiq.set_broker(RedisBroker(url=os.environ["BENCH_REDIS"]))


@dramatiq.actor
def tick(name: str, system: str, tizio: str) -> None:
    """Has succeeded."""
    app.tick()
