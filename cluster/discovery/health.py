"""Whether a source works, said once each time that changes: a name server that is away for a day is one line, not thousands."""

from spoolnode.node.log import Report


class Health:
    """One thing that can fail and be well again."""

    def __init__(self, report: Report, source: str) -> None:
        self._report = report
        self._source = source
        self._failing = False

    def failed(self, reason: str) -> None:
        """It does not work; `reason` is a sentence for the operator."""
        if not self._failing:
            self._failing = True
            self._report("discovery_failed", source=self._source, reason=reason)

    def well(self) -> None:
        """It works."""
        if self._failing:
            self._failing = False
            self._report("discovery_works", source=self._source)


def why(error: Exception) -> str:
    """What an error says, for the end of a sentence."""
    return (error.strerror if isinstance(error, OSError) else None) or str(error) or type(error).__name__
