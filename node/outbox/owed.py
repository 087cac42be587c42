"""The sequence numbers of tasks that have left the disk: owed until the removal of their tasks is safe on the medium."""

from collections.abc import Callable, Iterable


class OwedNumbers:
    """Numbers that wait for a sync, and what earlier syncs have shown."""

    def __init__(self, end: Callable[[str, int], None]) -> None:
        """`end` is called with a destination and a number that is no longer owed to it."""
        self._end = end
        self._waiting: list[tuple[str, int]] = []
        self.has_synced = False
        """Whether tasks that earlier processes ended are gone from the medium, so that a power cut cannot bring them back."""
        self.has_failed = False
        """Whether a sync has failed, so that marks may be lost in a power cut."""

    def __repr__(self) -> str:
        return f"<{len(self._waiting)} numbers wait for a sync>"

    def __bool__(self) -> bool:
        return bool(self._waiting)

    def add(self, to: str, numbers: Iterable[int]) -> None:
        """Notes numbers of a destination; 0 stands for none."""
        self._waiting += [(to, number) for number in numbers if number]

    def syncing(self) -> Callable[[bool], None]:
        """Called before a sync, which tells the result whether it has succeeded."""
        ended, self._waiting = self._waiting, []

        def synced(is_safe: bool) -> None:
            if not is_safe:
                self.has_failed = True  # the numbers stay owed, too: after a power cut their tasks may be sent again
                return
            self.has_synced = True
            for to, number in ended:
                self._end(to, number)

        return synced
