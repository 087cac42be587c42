"""The tasks that will be tried again: how many times they asked for it, why they failed, and which functions are missing. Pure.

There may be a million of them, so each costs only an entry in a dict; reasons are kept for the last few hundred.
"""

from collections import Counter, OrderedDict
from collections.abc import Iterable
from typing import Any

from spoolnode.node.spool.queue import Ref

REASONS = 250
"""Tasks whose reasons are kept."""
REASON_SIZE = 4096
"""Characters of a reason that are kept."""
ENDED_BEFORE = "the node ended before it was tried again"
"""Why a task waits for another attempt after a start, which does not know why it failed."""
MOST_ROUNDS = 64
"""Most rounds that are counted: the pause has long reached its bound."""


class Retrying:
    """Its length is the number of tasks that failed; those that only asked to be called again do not count."""

    def __init__(self) -> None:
        self._rounds: dict[Any, dict[Ref, int]] = {}
        """How many times in a row a task asked to be called again, by source and ref; 0 if it failed."""
        self._failed = 0
        self._reasons: OrderedDict[str, str] = OrderedDict()
        self._lacks: dict[tuple[Any, Ref], str] = {}
        """The tasks for which the application has no callable, and the functions that they name."""
        self.lacking: Counter[str] = Counter()
        """Those functions, and how many tasks wait for each."""

    def __len__(self) -> int:
        return self._failed

    def fail(self, source: Any, ref: Ref, identity: str, reason: str, lacks: str | None = None) -> None:
        """Notes that a task failed.

        Args:
            lacks: the function that it names (empty: none), if the application has no callable for it.
        """
        self._set(source, ref, 0)
        self._set_lack(source, ref, lacks)
        self._reasons[identity] = reason[:REASON_SIZE]
        self._reasons.move_to_end(identity)
        if len(self._reasons) > REASONS:
            self._reasons.popitem(last=False)

    def ask(self, source: Any, ref: Ref, identity: str) -> int:
        """Notes that a task asked to be called again. Returns how many times in a row it did."""
        self._reasons.pop(identity, None)
        self._set_lack(source, ref, None)
        rounds = min(self._rounds.get(source, {}).get(ref, 0) + 1, MOST_ROUNDS)
        self._set(source, ref, rounds)
        return rounds

    def forget(self, source: Any, refs: Iterable[Ref]) -> None:
        """Forgets tasks that ended or left."""
        held = self._rounds.get(source)
        if held is None:
            return
        for ref in refs:
            self._failed -= held.pop(ref, -1) == 0
            self._set_lack(source, ref, None)
        if not held:
            del self._rounds[source]

    def move(self, source: Any, ref: Ref, target: Any, new_ref: Ref) -> None:
        """Notes the new place of a task."""
        rounds = self._rounds.get(source, {}).get(ref)
        if rounds is not None:
            lacks = self._lacks.get((source, ref))
            self.forget(source, [ref])
            self._set(target, new_ref, rounds)
            self._set_lack(target, new_ref, lacks)

    def drop(self, source: Any) -> None:
        """Forgets all tasks of a source."""
        self.forget(source, list(self._rounds.get(source, ())))

    def has(self, source: Any, ref: Ref) -> bool:
        """Whether a task failed, and will be tried again or is just being tried again."""
        return self._rounds.get(source, {}).get(ref) == 0

    def by_source(self) -> dict[Any, dict[Ref, int]]:
        """All tasks that failed, and those that asked to be called again; for another thread. 0: it failed."""
        return {source: held.copy() for source, held in self._rounds.items()}

    def reason(self, identity: str) -> str:
        """Why a waiting task failed the last time; empty if it did not, or if the reason is no longer kept."""
        return self._reasons.get(identity, "")

    def _set(self, source: Any, ref: Ref, rounds: int) -> None:
        held = self._rounds.setdefault(source, {})
        self._failed += (rounds == 0) - (held.get(ref) == 0)
        held[ref] = rounds

    def _set_lack(self, source: Any, ref: Ref, lacks: str | None) -> None:
        before = self._lacks.pop((source, ref), None) if self._lacks else None
        if before is not None:
            self.lacking[before] -= 1
            if not self.lacking[before]:
                del self.lacking[before]
        if lacks is not None:
            self._lacks[source, ref] = lacks
            self.lacking[lacks] += 1
