"""The time limit of one send."""

from time import monotonic


class Deadline:
    """The end of the time for one send. With a large body, which takes long, the time counts from its last progress."""

    def __init__(self, seconds: float, *, renews: bool = False) -> None:
        self.seconds = seconds
        self._renews = renews
        self._end = monotonic() + seconds

    def __repr__(self) -> str:
        return f"<Deadline in {self.left:.3f} of {self.seconds:g} s{', renewed by progress' if self._renews else ''}>"

    @property
    def left(self) -> float:
        """Seconds until then, never less than zero."""
        return max(0.0, self._end - monotonic())

    def progress(self) -> None:
        """Notes that the node has taken something."""
        if self._renews:
            self._end = monotonic() + self.seconds
