"""Who comes from another task queue and types its names reads what to type here."""

import copy

import pytest

from spoolnode import spool


@spool(name="tasks:mail")
def mail(to: str) -> None: ...


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("delay", ".spool(...) stores a call"),
        ("enqueue", ".spool(...) stores a call"),
        ("send", ".spool(...) stores a call"),
        ("apply_async", ".options(at=..., priority=..., node=...).spool(...)"),
        ("aenqueue", ".aspool(...)"),
        ("chunks", ".spool_many([(1, 2), (3, 4)])"),
        ("delay_on_commit", ".spool_on_commit(...)"),
        ("apply", "call it like any function"),
        ("retry", "`raise Retry(after=300)`"),
        ("s", "workflows do not exist here"),
    ],
)
def test_a_name_of_another_queue_says_what_to_use(name: str, said: str) -> None:
    for what in (mail, mail.options(priority=1)):
        with pytest.raises(AttributeError) as caught:
            getattr(what, name)
        assert f"{what!r} has no {name!r}: " in str(caught.value)
        assert said in str(caught.value)


def test_other_names_are_unknown_as_on_any_object() -> None:
    assert not hasattr(mail, "delay")
    with pytest.raises(AttributeError, match=r"^<spooled function tasks:mail> has no 'dely'$"):
        mail.dely  # type: ignore[attr-defined]  # noqa: B018  # mypy knows that, too


def test_an_attribute_of_the_function_itself_stays() -> None:
    def other() -> None: ...

    other.delay = 3  # type: ignore[attr-defined]  # any function may have attributes
    assert spool(name="tasks:other")(other).delay == 3  # type: ignore[attr-defined]  # as above


def test_a_function_can_be_copied() -> None:
    assert copy.copy(mail).name == copy.deepcopy(mail.options(priority=1))._function.name == "tasks:mail"
