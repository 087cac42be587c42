"""Which connection gives way when every place is taken: a dawdler, never a busy one."""

from dataclasses import dataclass

import pytest

from spoolnode.node.ingress.room import DAWDLES_SECONDS, IDLE_SECONDS, Room


@dataclass(eq=False)
class Client:
    """A connection of a known kind."""

    since: float = 0.0
    is_incomplete: bool = True
    waits_for_us: bool = False

    def give_way(self) -> None:
        """It is told by others."""


@pytest.fixture
def room() -> Room:
    return Room(100, 10_000)


def test_the_oldest_that_has_never_finished_a_request_goes_first(room: Room) -> None:
    clients = [Client() for _ in range(3)]
    for client in clients:
        room.enter(client)
    assert [room.must_go(0.0) for _ in range(4)] == [*clients, None]


def test_one_whose_request_is_being_stored_stays(room: Room) -> None:
    room.enter(Client(is_incomplete=False))
    assert room.must_go(1000.0) is None


def test_after_those_goes_whose_last_progress_is_longest_ago(room: Room) -> None:
    slow, quick = Client(), Client()
    for client in (slow, quick, slow, quick):
        room.progressed(client) if client in room._new else room.enter(client)
    room.progressed(slow)
    quick.since = slow.since = 5.0
    assert room.must_go(5.0 + DAWDLES_SECONDS) is None
    assert room.must_go(5.1 + DAWDLES_SECONDS) is quick
    assert room.must_go(5.1 + DAWDLES_SECONDS) is slow


def test_an_idle_one_goes_after_a_while_and_one_that_waits_for_us_never(room: Room) -> None:
    idle, waiting = Client(is_incomplete=False), Client(is_incomplete=False, waits_for_us=True)
    for client in (waiting, idle):
        room.enter(client)
        room.progressed(client)
    assert room.must_go(IDLE_SECONDS) is None
    assert room.must_go(IDLE_SECONDS + 0.1) is idle
    assert room.must_go(1e9) is None


def test_who_left_does_not_go_again(room: Room) -> None:
    new, known = Client(), Client()
    room.enter(new)
    room.enter(known)
    room.progressed(known)
    room.leave(new)
    room.leave(known)
    room.progressed(known)
    assert room.must_go(1e9) is None


@pytest.mark.parametrize(
    ("wanted", "descriptors", "limit"), [(4096, 1 << 20, 4096), (4096, 1024, 576), (100, 1024, 100), (50, 20, 7)]
)
def test_connections_leave_descriptors_to_everything_else(wanted: int, descriptors: int, limit: int) -> None:
    room = Room(wanted, descriptors)
    assert room.limit == limit
    assert room.limit + room.uploads < descriptors
