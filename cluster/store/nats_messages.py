"""The messages in the stream of a store in NATS.

All reads go to the leader of the stream, which has all that was acknowledged: JetStream's "direct get" asks any replica, and one
that lags would hide what was just stored. The one read that may ask them (`few`) asks the leader for the rest.

A single message is stored again when the answer is late. An atomic batch is not: whether it was stored is unknown then.
"""

import asyncio
import base64
import json
import secrets
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

from nats.errors import Error as NatsError
from nats.errors import NoRespondersError

from spoolnode.cluster.store.interface import StoreUnfit
from spoolnode.cluster.store.nats_clock import Clock, seconds
from spoolnode.cluster.store.nats_connection import ONE_TRY, PATIENCE, PAUSE, ServerConnection, now, text_of
from spoolnode.cluster.store.nats_entries import PREFIX, STREAM

_WRONG_LAST = frozenset({10071, 10164})
"""Error codes: the last message of a subject is another one than the batch expects."""


class NewMessage(NamedTuple):
    """A message to be stored, in a batch."""

    subject: str
    data: bytes = b""
    headers: dict[str, str] = {}  # noqa: RUF012  # never changed


class Got(NamedTuple):
    """A stored message."""

    subject: str
    seq: int
    data: bytes
    stored: float = 0.0
    """When; seconds since 1970."""


class Conflict(Exception):
    """Another one was faster: nothing of the batch was stored."""


class Messages:
    """The messages in the stream."""

    def __init__(self, connection: ServerConnection, clock: Clock) -> None:
        self.connection = connection
        self.clock = clock

    async def last(self, subject: str) -> Got | None:
        """The last message of a subject."""
        return await self._get({"last_by_subj": subject})

    async def at(self, seq: int) -> Got | None:
        """The message with that number."""
        return await self._get({"seq": seq}) if seq > 0 else None

    async def following(self, subject: str, seq: int) -> Got | None:
        """The first message of a subject that has at least that number."""
        return await self._get({"next_by_subj": subject, "seq": max(seq, 1)})

    async def few(self, subject: str, seq: int, most: int) -> list[Got]:
        """The first messages of a subject that have at least that number, up to so many that the leader has.

        `most` should not be more than there are. Asks any replica for all of them, and the leader for what that one lacks.
        """
        found = await self._bulk(subject, seq, most) if most > 1 else []
        while len(found) < most:
            got = await self.following(subject, found[-1].seq + 1 if found else seq)
            if got is None:
                break
            found.append(got)
        return found

    async def counts(self, subjects: str) -> dict[str, int]:
        """How many messages there are on each of the subjects that match."""
        found: dict[str, int] = {}
        deadline = time.time() + PATIENCE
        while True:
            asked = time.time()
            answer = await self.connection.ask(f"STREAM.INFO.{STREAM}", {"subjects_filter": subjects, "offset": len(found)})
            if answer is None:
                raise no_stream(self.connection)
            if answer.get("cluster", {}).get("leader", "") == "" and asked < deadline:
                await asyncio.sleep(PAUSE)  # without a leader, any server tells what it has
                continue
            self.clock.heard(answer["ts"], asked, time.time())
            page = answer["state"].get("subjects") or {}
            found |= page
            if not page or len(found) >= answer.get("total", 0):
                return found

    async def commit(self, messages: Sequence[NewMessage]) -> int:
        """Stores messages, all or none, one behind the other. Returns the number of the first one. Raises `Conflict`."""
        deadline = now() + PATIENCE
        while True:
            try:
                answer = await self._batch(messages)
                break
            except NoRespondersError as error:  # the last message, without which nothing counts, was not heard
                if now() > deadline:
                    raise self.connection.away("no server takes messages for its stream") from error
                await asyncio.sleep(PAUSE)
            except (NatsError, OSError) as error:
                raise self.connection.away(f"whether it has the tasks is unknown: {text_of(error)}") from error
        error_told = answer.get("error")
        if error_told and error_told.get("err_code") in _WRONG_LAST:
            raise Conflict
        if error_told:
            raise self.connection.error(error_told)
        return int(answer["seq"]) - len(messages) + 1

    async def store(self, message: NewMessage) -> int:
        """Stores one message; returns its number. If it is repeated, it is stored again."""
        answer = json.loads((await self.connection.request(message.subject, message.data, message.headers or None)).data)
        if answer.get("error"):
            raise self.connection.error(answer["error"])
        return int(answer["seq"])

    async def catch_up(self) -> None:
        """Returns when the leader has all that was acknowledged before, which one that was just elected may not have at first: it
        stores a message of its own, and everything else comes before that."""
        await self.store(NewMessage(f"{PREFIX}.turn", b"", {"Nats-Rollup": "sub"}))

    async def delete(self, seq: int) -> bool:
        """Deletes a message; False if it is gone already."""
        return await self.connection.ask(f"STREAM.MSG.DELETE.{STREAM}", {"seq": seq, "no_erase": True}) is not None

    async def purge(self, subject: str) -> None:
        """Deletes all messages of the subjects that match."""
        await self.connection.ask(f"STREAM.PURGE.{STREAM}", {"filter": subject})

    async def _get(self, what: dict[str, Any]) -> Got | None:
        answer = await self.connection.ask(f"STREAM.MSG.GET.{STREAM}", what)
        if answer is None:
            return None
        message = answer["message"]
        data = base64.b64decode(message.get("data", ""))
        return Got(message["subject"], message["seq"], data, seconds(message["time"]))

    async def _bulk(self, subject: str, seq: int, most: int) -> list[Got]:
        """The messages that one of the replicas has; perhaps not all."""
        client = await self.connection.client()
        found: list[Got] = []
        try:
            inbox = client.new_inbox()
            answers = await client.subscribe(inbox)
            try:
                what = json.dumps({"seq": max(seq, 1), "next_by_subj": subject, "batch": most}).encode()
                await client.publish(f"$JS.API.DIRECT.GET.{STREAM}", what, reply=inbox)
                while len(found) < most:
                    answer = await answers.next_msg(timeout=ONE_TRY)
                    headers = answer.headers or {}
                    if "Nats-Sequence" not in headers:
                        break  # that was all, or it knows nothing
                    stored = seconds(headers["Nats-Time-Stamp"])
                    found.append(Got(headers["Nats-Subject"], int(headers["Nats-Sequence"]), answer.data, stored))
            finally:
                await answers.unsubscribe()
        except (NatsError, OSError):
            pass  # the leader is asked for the rest
        return found

    async def _batch(self, messages: Sequence[NewMessage]) -> dict[str, Any]:
        client = await self.connection.client()
        name = secrets.token_hex(12)
        for number, message in enumerate(messages, 1):
            headers = {**message.headers, "Nats-Batch-Id": name, "Nats-Batch-Sequence": str(number)}
            if number < len(messages):
                await client.publish(message.subject, message.data, headers=headers)
        headers["Nats-Batch-Commit"] = "1"
        answer = await client.request(message.subject, message.data, timeout=PATIENCE, headers=headers)
        return dict(json.loads(answer.data))


def no_stream(connection: ServerConnection) -> StoreUnfit:
    """The error."""
    return StoreUnfit(
        f"the store {connection.address.name} has no stream for tasks: if it is new, run `spoolnode store check --migrate`"
    )
