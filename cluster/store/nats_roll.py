"""The nodes that are there, in a small stream of NATS: the last message of each node's subject is its entry.

It is a stream of its own, because it may drop what is old, and that of the tasks must not. Any replica may tell the entries: one
that lags tells them a moment later.
"""

import json
from typing import Any

from nats.errors import Error as NatsError

from spoolnode.cluster.store.interface import StoreUnfit
from spoolnode.cluster.store.nats_clock import Clock
from spoolnode.cluster.store.nats_connection import ONE_TRY, ServerConnection, text_of
from spoolnode.cluster.store.nats_entries import PREFIX
from spoolnode.cluster.store.nats_stream import of_another_program
from spoolnode.cluster.store.roll import Roll

STREAM = f"{PREFIX}_nodes"
_SUBJECT = f"{PREFIX}.node"
_DAY = 86400 * 10**9
_WANTED: dict[str, Any] = {
    "name": STREAM,
    "subjects": [f"{_SUBJECT}.*"],
    "retention": "limits",
    "storage": "file",
    "discard": "old",
    "max_age": _DAY,
    "max_msgs_per_subject": 1,
    "allow_direct": True,
}


async def prepare_roll(connection: ServerConnection) -> None:
    """Makes the stream, with as many replicas as the address says. Raises `StoreAway`, `StoreUnfit`."""
    info = await connection.ask(f"STREAM.INFO.{STREAM}")
    if info is not None and info["config"].get("subjects") != _WANTED["subjects"]:
        raise of_another_program(info)
    verb = "CREATE" if info is None else "UPDATE"
    wanted = {**(info["config"] if info else {}), **_WANTED, "num_replicas": connection.address.replicas}
    await connection.ask(f"STREAM.{verb}.{STREAM}", wanted)


class NatsRoll(Roll):
    """Two requests: one writes, one reads."""

    def __init__(self, connection: ServerConnection, clock: Clock) -> None:
        self._connection = connection
        self._clock = clock
        self._is_there = False

    async def sign_in(self, node: str, said: bytes, seconds: float) -> dict[str, bytes]:
        await self._check_stream()
        now = self._clock.now()
        entry = b"%f\n%b" % (now + seconds, said)
        answer = json.loads((await self._connection.request(f"{_SUBJECT}.{node}", entry)).data)
        if answer.get("error"):
            raise self._connection.error(answer["error"])
        found = {subject.rpartition(".")[2]: told.partition(b"\n") for subject, told in (await self._last()).items()}
        return {other: told for other, (until, _, told) in found.items() if other != node and float(until) > now}

    async def sign_out(self, node: str) -> None:
        await self._connection.ask(f"STREAM.PURGE.{STREAM}", {"filter": f"{_SUBJECT}.{node}"})

    async def _check_stream(self) -> None:
        """Without the stream, the servers would not answer at all."""
        if not self._is_there and await self._connection.ask(f"STREAM.INFO.{STREAM}") is None:
            name = self._connection.address.name
            raise StoreUnfit(f"the store {name} has no stream for nodes yet: run `spoolnode store check --migrate`")
        self._is_there = True

    async def _last(self) -> dict[str, bytes]:
        """The last message of each subject."""
        client = await self._connection.client()
        found: dict[str, bytes] = {}
        try:
            inbox = client.new_inbox()
            answers = await client.subscribe(inbox)
            try:
                asked = json.dumps({"multi_last": [f"{_SUBJECT}.*"]}).encode()
                await client.publish(f"$JS.API.DIRECT.GET.{STREAM}", asked, reply=inbox)
                while True:
                    answer = await answers.next_msg(timeout=ONE_TRY)
                    headers = answer.headers or {}
                    if "Nats-Sequence" not in headers:
                        return found  # that was all
                    found[headers["Nats-Subject"]] = answer.data
            finally:
                await answers.unsubscribe()
        except (NatsError, OSError) as error:
            self._is_there = False
            raise self._connection.away(text_of(error)) from error
