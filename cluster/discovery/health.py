"""Whether a source works, reported only on changes: a name server that is away for a day makes one line, not thousands."""

from spoolnode.node.log import Report


class Health:
    """Something that can fail and recover."""

    def __init__(self, report: Report, source: str) -> None:
        self._report = report
        self._source = source
        self._failing = False

    def failed(self, reason: str) -> None:
        """Notes that it does not work; `reason` is a sentence for the operator."""
        if not self._failing:
            self._failing = True
            self._report("discovery_failed", source=self._source, reason=reason)

    def well(self) -> None:
        """Notes that it works."""
        if self._failing:
            self._failing = False
            self._report("discovery_works", source=self._source)
