"""Bodies of tasks that were taken, while they come: a small one is gathered in memory, a large one goes to its file."""

from spoolnode.node.ingress.admission import InlineTask
from spoolnode.node.ingress.answers import AnswerPlace
from spoolnode.node.ingress.pieces import Gathered, Pieces
from spoolnode.node.ingress.upload import Upload
from spoolnode.protocol.errors import Refused


class SmallBody:
    """A body that becomes a record, with its task."""

    __slots__ = ("_gathered", "_pieces", "_task", "place")

    def __init__(self, task: InlineTask, place: AnswerPlace, gathered: Gathered) -> None:
        self.place = place
        """The place of its answer."""
        self._task = task
        self._gathered = gathered
        self._pieces: Pieces | None = None
        """Made only for a body that does not come in one piece."""

    def __repr__(self) -> str:
        return f"<small body, {self._pieces or 'no pieces'} gathered for {self._task!r}>"

    def add(self, data: bytes) -> None:
        """Gathers the next bytes."""
        if self._pieces is None:
            self._pieces = Pieces(self._gathered)
        self._pieces.add(data)

    def take(self, rest: bytes) -> int:
        """Enters the task with the whole body, of which `rest` is the end; returns how long the body is."""
        body = rest
        if self._pieces is not None:
            self._pieces.add(rest)
            body = self._pieces.joined()
            self._pieces.drop()
        try:
            self._task.take(body)
        except Refused as refusal:
            self.place.refused(refusal)
        return len(body)

    def abort(self) -> None:
        """Drops it: the rest will not come."""
        if self._pieces is not None:
            self._pieces.drop()


class LargeBody:
    """A body that is written to a file as it comes, piece by piece."""

    __slots__ = ("_pieces", "_upload", "place")

    def __init__(self, upload: Upload, place: AnswerPlace, gathered: Gathered) -> None:
        self.place = place
        """The place of its answer."""
        self._upload = upload
        self._pieces = Pieces(gathered)

    def __repr__(self) -> str:
        return f"<large body, {self._pieces!r} gathered for {self._upload!r}>"

    def add(self, data: bytes) -> bool:
        """Gathers the next bytes; returns whether they should be written now."""
        self._pieces.add(data)
        return self._pieces.are_enough

    async def write(self, *, last: bool) -> bool:
        """Writes what was gathered, and after the `last` piece publishes the file; returns whether the disk took it."""
        try:
            try:
                await self._upload.write(self._pieces.joined())
            finally:
                self._pieces.drop()
            if last:
                await self._upload.finish(self.place)
        except Refused as refusal:
            self.place.refused(refusal)
            return False
        return True

    def abort(self) -> None:
        """Drops it: the rest will not come."""
        self._upload.abort()
        self._pieces.drop()
