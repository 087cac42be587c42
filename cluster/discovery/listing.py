"""For sources that tell their whole list each time: which candidates are new, and which are withdrawn. Pure."""

from collections.abc import Iterable, Mapping

from spoolnode.cluster.candidate import Candidate, Sink


class Listing:
    """The candidates of one source by key; a candidate that was absent `patience` times in a row is withdrawn."""

    def __init__(self, patience: int) -> None:
        self._patience = patience
        self._known: dict[str, Candidate] = {}
        self._absences: dict[str, int] = {}

    def update(self, told: list[Candidate]) -> tuple[list[Candidate], list[str]]:
        """The candidates that are new or have changed, and the keys of those that are withdrawn now."""
        latest = {candidate.key: candidate for candidate in told}
        changed = [candidate for key, candidate in latest.items() if self._known.get(key) != candidate]
        absences = {key: self._absences.get(key, 0) + 1 for key in self._known if key not in latest}
        withdrawn = [key for key, count in absences.items() if count >= self._patience]
        self._known |= latest
        for key in withdrawn:
            del self._known[key], absences[key]
        self._absences = absences
        return changed, withdrawn

    def tell(self, sink: Sink, source: str, told: list[Candidate]) -> None:
        """Tells the changes."""
        changed, withdrawn = self.update(told)
        for candidate in changed:
            sink.found(candidate)
        for key in withdrawn:
            sink.gone(source, key)


def at_addresses(source: str, answer: Mapping[str, Iterable[str]]) -> list[Candidate]:
    """Candidates of which only the addresses are known, by key."""
    return [Candidate(source, key, id="", name="", addresses=tuple(sorted(found))) for key, found in answer.items()]
