"""A key leads to the task that waits with it, whatever tasks of that key do."""

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from spoolnode.node.spool.tasks import Batch, OutboxFiles, Source
from spoolnode.node.spool.waiting_keys import KeyedTask, WaitingKeys

KEYS = [b"a", b"b"]


class Keys(RuleBasedStateMachine):
    """Tasks that come, start, come back, move and end; a model says which wait, in which order."""

    def __init__(self) -> None:
        super().__init__()
        self.batch, self.files = Batch(1), OutboxFiles()
        self.keys = WaitingKeys()
        self.key: dict[KeyedTask, bytes] = {}
        self.waiting: list[KeyedTask] = []
        self.count = 0

    def some(self, data: st.DataObject, tasks: list[KeyedTask]) -> KeyedTask:
        return data.draw(st.sampled_from(tasks))

    @rule(key=st.sampled_from(KEYS))
    def comes(self, key: bytes) -> None:
        self.count += 1
        task = KeyedTask(self.batch, self.count)
        self.keys.add(*task, key)
        self.key[task] = key
        self.waiting.append(task)

    @precondition(lambda self: self.waiting)
    @rule(data=st.data())
    def starts(self, data: st.DataObject) -> None:
        task = self.some(data, self.waiting)
        self.keys.take(task.source, [task.ref])
        self.waiting.remove(task)

    @precondition(lambda self: self.key)
    @rule(data=st.data())
    def comes_back(self, data: st.DataObject) -> None:
        task = self.some(data, list(self.key))
        self.keys.wait_again(task.source, [task.ref])
        if task not in self.waiting:
            self.waiting.append(task)

    @precondition(lambda self: any(task.source is self.batch for task in self.key))
    @rule(data=st.data())
    def settles(self, data: st.DataObject) -> None:
        task = self.some(data, [task for task in self.key if task.source is self.batch])
        moved = KeyedTask(self.files, f"file{task.ref}")
        self.keys.move(*task, *moved)
        self.key[moved] = self.key.pop(task)
        self.waiting = [moved if other == task else other for other in self.waiting]

    @precondition(lambda self: self.key)
    @rule(data=st.data())
    def ends(self, data: st.DataObject) -> None:
        task = self.some(data, list(self.key))
        self.keys.forget(task.source, [task.ref])
        del self.key[task]
        self.waiting = [other for other in self.waiting if other != task]

    @rule()
    def another_ends(self) -> None:
        source: Source = self.files
        self.keys.take(source, ["never heard of"])
        self.keys.wait_again(source, ["never heard of"])
        self.keys.forget(source, ["never heard of"])

    @invariant()
    def a_key_leads_to_the_first_that_waits(self) -> None:
        for key in KEYS:
            expected = next((task for task in self.waiting if self.key[task] == key), None)
            assert self.keys.first(key) == expected

    @invariant()
    def nothing_else_is_kept(self) -> None:
        assert len(self.keys) == len(self.key)
        assert (
            repr(self.keys) == f"<WaitingKeys: {len(self.key)} tasks, {len({self.key[t] for t in self.waiting})} keys that wait>"
        )


TestKeys = Keys.TestCase
TestKeys.settings = settings(max_examples=50, stateful_step_count=30, deadline=None)
