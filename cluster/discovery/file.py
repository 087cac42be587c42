"""Peers in a JSON file that any program can write, in the form of Prometheus' file_sd:

    [{"targets": ["10.0.0.5:3031", "10.0.0.6:3031"]},
     {"targets": ["10.0.0.7:3031", "192.168.1.7:3031"], "labels": {"id": "0123456789ab", "name": "gamma"}}]

Each target is a node; if labels have an `id` or `name`, the targets are the addresses of that one node. To change the list,
write a new file and rename it into place. If a file cannot be read, the last good list stays.
"""

import asyncio
import json
import os
from typing import Any

from spoolnode.cluster.candidate import Candidate, Sink
from spoolnode.cluster.discovery.addresses import split_address
from spoolnode.cluster.discovery.health import Health
from spoolnode.cluster.discovery.listing import Listing
from spoolnode.cluster.reasons import why
from spoolnode.node.log import Report
from spoolnode.protocol import names

POLL_SECONDS = 2.0
MAX_BYTES = 1 << 20

_Stamp = tuple[int, int, int]
"""When the file was written, its inode and its size: they change when the file does."""


class File:
    """A list in a file, read when the file has changed."""

    def __init__(self, uri: str, path: str, report: Report, *, poll: float = POLL_SECONDS) -> None:
        self.uri = uri
        self._path = path
        self._poll = poll
        self._health = Health(report, uri)
        self._listing = Listing(patience=1)
        self._stamp: _Stamp | None = None
        self._was_read = False

    async def run(self, sink: Sink) -> None:
        """Checks whether the file has changed, reports the changes, waits; again and again."""
        while True:
            try:
                told = await asyncio.to_thread(self._read)
            except (OSError, ValueError) as error:
                self._health.failed(f"{self._path} cannot be used: {why(error)}; {self._without()}")
            else:
                self._health.well()
                if told is not None:
                    self._tell(sink, told)
            await asyncio.sleep(self._poll)

    async def close(self) -> None:
        """Does nothing: this source cannot tell others."""

    def _without(self) -> str:
        """The consequence of a file that cannot be read, for a report."""
        return "the last good list stays" if self._was_read else "no peers from it until it can be read"

    def _read(self) -> list[Candidate] | None:
        """Its candidates; None if it has not changed. Runs in a thread, because a file system may hang."""
        with open(self._path, "rb") as file:
            status = os.fstat(file.fileno())
            stamp = (status.st_mtime_ns, status.st_ino, status.st_size)
            if stamp == self._stamp:
                return None
            self._stamp = None  # a file that cannot be read is read again
            data = file.read(MAX_BYTES + 1)
        if len(data) > MAX_BYTES:
            raise ValueError(f"it has more than {MAX_BYTES} bytes")
        told = read_peers(data.decode(), self.uri)
        self._stamp = stamp
        return told

    def _tell(self, sink: Sink, told: list[Candidate]) -> None:
        self._was_read = True
        self._listing.tell(sink, self.uri, told)


def read_peers(text: str, source: str) -> list[Candidate]:
    """The candidates in the text of such a file.

    Raises:
        ValueError: it is not such a file; the text says where.
    """
    try:
        groups = json.loads(text)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    if not isinstance(groups, list):
        raise ValueError('it must be a list of {"targets": [...], "labels": {...}}')
    return [candidate for number, group in enumerate(groups, 1) for candidate in _read_group(group, number, source)]


def _read_group(group: Any, number: int, source: str) -> list[Candidate]:
    targets = group.get("targets") if isinstance(group, dict) else None
    if not isinstance(targets, list) or not all(isinstance(target, str) for target in targets):
        raise ValueError(f'entry {number} must be {{"targets": ["host:port", ...]}}')
    for target in targets:
        split_address(target)
    labels = group.get("labels", {})
    identity, name = (labels.get("id", ""), labels.get("name", "")) if isinstance(labels, dict) else (None, None)
    if identity != "" and not (isinstance(identity, str) and names.is_node_id(identity)):
        raise ValueError(f"entry {number} has the id {identity!r}; it must be the 12 hexadecimal digits of a node id")
    if name != "" and not (isinstance(name, str) and names.is_node_name(name)):
        raise ValueError(f"entry {number} has the name {name!r}, which cannot be a node's name")
    if targets and (identity or name):
        return [Candidate(source, identity or name, identity, name, tuple(targets))]
    return [Candidate(source, target, id="", name="", addresses=(target,)) for target in targets]
