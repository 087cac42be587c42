"""Bodies on their way: gathered in memory, with bounds for each connection and for all together."""

UPLOAD_PIECE = 1 << 20
"""Bytes of a large body gathered before they are written..."""
MAX_GATHERED = 16 << 20
"""...unless all connections together have gathered more than this..."""
LEAST_PIECE = 16 << 10
"""...then this many are enough, and smaller bodies are written as they come, too: many clients may be slow at once."""
MAX_PIECES = 512
"""Most pieces of a body in memory: a body that comes in crumbs would take twenty times its size."""


class Gathered:
    """Incomplete bodies in memory, of all connections together."""

    __slots__ = ("size",)

    def __init__(self) -> None:
        self.size = 0
        """In bytes."""

    def __repr__(self) -> str:
        return f"<gathered bodies, {self.size} bytes{', crowded' if self.is_crowded else ''}>"

    @property
    def is_crowded(self) -> bool:
        """Whether there is so much that smaller pieces must be enough."""
        return self.size > MAX_GATHERED


class Pieces:
    """A body, or the next part of a large one, in memory."""

    __slots__ = ("_all", "_pieces", "size")

    def __init__(self, gathered: Gathered) -> None:
        self._all = gathered
        self._pieces: list[bytes] = []
        self.size = 0
        """In bytes."""

    def __repr__(self) -> str:
        return f"<{len(self._pieces)} pieces, {self.size} bytes>"

    def add(self, data: bytes) -> None:
        """Adds a piece."""
        self._pieces.append(data)
        if len(self._pieces) > MAX_PIECES:
            self._pieces = [b"".join(self._pieces)]
        self.size += len(data)
        self._all.size += len(data)

    @property
    def are_enough(self) -> bool:
        """Whether they should be written, for a large body."""
        return self.size >= (LEAST_PIECE if self._all.is_crowded else UPLOAD_PIECE)

    def joined(self) -> bytes:
        """All of them, joined; they stay in memory."""
        if len(self._pieces) != 1:
            self._pieces = [b"".join(self._pieces)]
        return self._pieces[0]

    def drop(self) -> None:
        """Frees their memory."""
        self._pieces = []
        self._all.size -= self.size
        self.size = 0
