"""One-time links and sessions, with a clock and secrets of the test's own."""

from itertools import count

import pytest

from spoolnode.node.control.sessions import LINK_SECONDS, MOST_LINKS, MOST_SESSIONS, SESSION_SECONDS, Sessions


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def make() -> tuple[Sessions, Clock]:
    clock, numbers = Clock(), count()
    return Sessions(clock, lambda: f"secret {next(numbers)}"), clock


def test_a_link_opens_one_session_and_no_second() -> None:
    sessions, _ = make()
    code = sessions.new_link()
    session = sessions.open(code)
    assert session != code
    assert sessions.name_of(session)
    with pytest.raises(KeyError):
        sessions.open(code)
    assert not sessions.name_of(code), "the code of a link is not a session"


@pytest.mark.parametrize("code", ["", "secret 1", "Secret 0", "secret 0 ", "\udcff"])
def test_what_is_not_the_code_of_a_link_opens_nothing(code: str) -> None:
    sessions, _ = make()
    sessions.new_link()
    with pytest.raises(KeyError):
        sessions.open(code)
    assert not sessions.name_of(code)


def test_links_and_sessions_end_when_their_time_is_up() -> None:
    sessions, clock = make()
    late, timely = sessions.new_link(), sessions.new_link()
    clock.now += LINK_SECONDS - 1
    session = sessions.open(timely)
    clock.now += 1
    with pytest.raises(KeyError):
        sessions.open(late)
    clock.now += SESSION_SECONDS - 2
    assert sessions.name_of(session)
    clock.now += 1
    assert not sessions.name_of(session)


def test_only_the_newest_are_kept_so_memory_has_a_bound() -> None:
    sessions, _ = make()
    codes = [sessions.new_link() for _ in range(MOST_LINKS + 1)]
    with pytest.raises(KeyError):
        sessions.open(codes[0])
    opened = [sessions.open(code) for code in codes[1:]]
    opened += [sessions.open(sessions.new_link()) for _ in range(MOST_SESSIONS)]
    assert [bool(sessions.name_of(session)) for session in opened] == [False] * MOST_LINKS + [True] * MOST_SESSIONS
    assert len({sessions.name_of(session) for session in opened[MOST_LINKS:]}) == MOST_SESSIONS, "each has a name of its own"


def test_no_secret_is_kept_as_it_is() -> None:
    sessions, _ = make()
    session = sessions.open(sessions.new_link())
    sessions.new_link()
    assert "secret" not in repr(vars(sessions)["_links"]) + repr(vars(sessions)["_sessions"]) + sessions.name_of(session)
