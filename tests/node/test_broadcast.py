"""What happens to tasks reaches those who listen, and those who do not read hold up nothing."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from spoolnode.node.story.broadcast import MOST_HELD, Broadcast
from spoolnode.node.story.keeper import Untold
from spoolnode.node.story.notes import DONE

NODE = "0123456789ab"


class Notes(Untold):
    """Keeps what the story is told."""

    def __init__(self) -> None:
        self.calls: list[Any] = []

    def note(self, *args: Any, **detail: Any) -> None:
        self.calls.append(("note", *args, detail))

    def accepted(self, *args: Any, **detail: Any) -> None:
        self.calls.append(("accepted", *args, detail))


def run(story: Callable[[Broadcast, Notes], Coroutine[Any, Any, None]]) -> None:
    notes = Notes()
    broadcast = Broadcast(notes, NODE)
    asyncio.run(asyncio.wait_for(story(broadcast, notes), 60))


def test_each_listener_hears_what_it_asked_for_and_the_story_hears_everything() -> None:
    async def story(broadcast: Broadcast, notes: Notes) -> None:
        broadcast.function_of = {f"{NODE}_7_80": "mail", "x": "pay"}.__getitem__
        with (
            broadcast.listening() as everything,
            broadcast.listening(function="mail") as mail,
            broadcast.listening("b_1_1") as one,
        ):
            broadcast.accepted(7, [80, 99], ["10.0.0.5", "here"], {99: b"b_1_1"}, {80: b"mail"})
            broadcast.note(DONE, 7, [80], [0.5])
            broadcast.note(DONE, None, ["dead/uwsgi_spoolfile_on_x"], reason="because")
            heard = [await listener.next() for listener in (everything, mail, one)]
        told = [[(event["event"], event["id"], event["function"]) for event in events] for _, events in heard]
        first, second = ("accepted", f"{NODE}_7_80", "mail"), ("accepted", f"{NODE}_7_99", "")
        done = "done", f"{NODE}_7_80", "mail"
        assert told == [[first, second, done, ("done", "x", "pay")], [first, done], [second]]
        assert heard[0][1][0]["from"] == "10.0.0.5"
        assert heard[0][1][2]["seconds"] == 0.5
        assert heard[0][1][3]["reason"] == "because"
        assert [call[:2] for call in notes.calls] == [("accepted", 7), ("note", DONE), ("note", DONE)]

    run(story)


def test_a_listener_that_does_not_read_loses_the_oldest_and_is_told_how_many() -> None:
    async def story(broadcast: Broadcast, notes: Notes) -> None:
        del notes
        with broadcast.listening() as slow, broadcast.listening() as quick:
            for number in range(MOST_HELD + 5):
                broadcast.note(DONE, 7, [number])
                assert (await quick.next())[0] == 0
            lost, events = await slow.next()
            assert (lost, len(events), events[0]["id"]) == (5, MOST_HELD, f"{NODE}_7_5")
            broadcast.note(DONE, 7, [1])
            assert (await slow.next())[0] == 0, "it is told once"

    run(story)


def test_without_a_listener_nothing_is_looked_up_or_kept() -> None:
    async def story(broadcast: Broadcast, notes: Notes) -> None:
        def asked(identity: str) -> str:
            raise AssertionError(identity)

        with broadcast.listening():
            assert broadcast.is_heard
        broadcast.function_of = asked
        broadcast.note(DONE, 7, [80])
        broadcast.accepted(7, [80], ["here"], {}, {})
        assert not broadcast.is_heard
        assert len(notes.calls) == 2

    run(story)
