"""The time limit of one send."""

from time import monotonic


class Deadline:
    """The end of the time for one send. If it takes long (a large body, many tasks), the time counts from the last progress."""

    def __init__(self, seconds: float, *, renews: bool = False) -> None:
        self.seconds = seconds
        self.places = 1
        """Places that are still to be tried within it: connecting to one of them takes only its share."""
        self._renews = renews
        self._end = monotonic() + seconds

    def __repr__(self) -> str:
        return f"<Deadline in {self.left:.3f} of {self.seconds:g} s{', renewed by progress' if self._renews else ''}>"

    @property
    def left(self) -> float:
        """Seconds until then, never less than zero."""
        return max(0.0, self._end - monotonic())

    def to_connect(self) -> "Deadline":
        """The limit for getting through to the place that is tried now."""
        return self if self.places == 1 else Deadline(self.left / self.places)

    def progress(self) -> None:
        """Notes that the node has taken or answered something."""
        if self._renews:
            self._end = monotonic() + self.seconds
