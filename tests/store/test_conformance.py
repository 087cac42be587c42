"""What every driver of a common store promises; and the fake in memory, so that what is tested on it holds in production."""

import asyncio
from collections.abc import AsyncIterator

import pytest
from store_tasks import BLOCK, body_of, held, ids, new, take
from subjects import Subject

from spoolnode.cluster.store.interface import (
    CHUNK,
    NO_BODY,
    REMEMBERED,
    Again,
    Burial,
    BytesContent,
    CommonStore,
    Content,
    HowEnded,
    Lease,
    NewTask,
    Publication,
    StoreAway,
    StoredTask,
    TaskState,
)
from spoolnode.protocol.errors import BadTask, SpoolnodeError
from spoolnode.protocol.names import LAST

STORED, REPEATED, DUPLICATE = Publication.STORED, Publication.REPEATED, Publication.DUPLICATE
MEBIBYTE = 1 << 20


# --- what is published ---


def test_a_task_comes_out_as_it_went_in(subject: Subject) -> None:
    async def story(subject: Subject) -> None:
        task = StoredTask("a_1_80", BLOCK, "tag:gpu", 7, 0.0, b"\x00key", 3, 2)
        assert await subject.store.publish([NewTask(task)]) == [STORED]
        ((lease, taken),) = await take(subject.store, "tag:gpu")
        assert taken == task
        assert lease == Lease("a_1_80", 2, 1)

    subject.run(story)


def test_the_variables_of_a_group_come_out_as_they_went_in_whatever_bytes_they_have(subject: Subject) -> None:
    async def story(subject: Subject) -> None:
        blocks = [b"", b"\0", bytes(range(256)) * 200, b"' {}\\,\n", b"NULL"]
        tasks = [StoredTask(f"a_1_{number}", block, "tag:it's") for number, block in enumerate(blocks)]
        assert await subject.store.publish([*map(NewTask, tasks)]) == [STORED] * len(blocks)
        assert [taken for _, taken in await take(subject.store, "tag:it's")] == tasks

    subject.run(story)


def test_nothing_published_is_nothing_done(subject: Subject) -> None:
    async def story(subject: Subject) -> None:
        assert await subject.store.publish([]) == []

    subject.run(story)


def test_a_repeat_is_the_same_task(subject: Subject) -> None:
    async def story(subject: Subject) -> None:
        assert await subject.store.publish([new("a")]) == [STORED]
        assert await subject.store.publish([new("a")]) == [REPEATED]
        assert ids(await take(subject.store)) == ["a"]

    subject.run(story)


def test_a_repeat_beside_new_ones_does_not_keep_them_out(subject: Subject) -> None:
    async def story(subject: Subject) -> None:
        await subject.store.publish([new("b")])
        assert await subject.store.publish([new("a"), new("b"), new("c")]) == [STORED, REPEATED, STORED]
        assert ids(await take(subject.store)) == ["b", "a", "c"]

    subject.run(story)


def test_one_that_comes_twice_in_a_group_is_stored_once(subject: Subject) -> None:
    async def story(subject: Subject) -> None:
        assert await subject.store.publish([new("a"), new("a")]) == [STORED, REPEATED]
        assert ids(await take(subject.store)) == ["a"]

    subject.run(story)


def test_a_repeat_of_one_that_is_held_is_not_taken_beside_it(subject: Subject) -> None:
    async def story(subject: Subject) -> None:
        await held(subject.store, new("a"))
        assert await subject.store.publish([new("a")]) == [REPEATED]
        assert await take(subject.store) == []

    subject.run(story)


def test_a_repeat_of_one_that_has_ended_does_not_run_again(subject: Subject) -> None:
    async def story(subject: Subject) -> None:
        await subject.store.end([await held(subject.store, new("a", b"body"))])
        assert await subject.store.publish([new("a", b"body")]) == [REPEATED]
        assert await take(subject.store) == []

    subject.run(story)


def test_one_that_ended_long_ago_is_forgotten(subject: Subject) -> None:
    async def story(subject: Subject) -> None:
        await subject.store.end([await held(subject.store, new("a"))])
        before = await subject.pass_time(REMEMBERED - 5)
        await take(before)
        assert await before.find("a")
        after = await subject.pass_time(10)
        await take(after)
        assert await after.find("a") is None

    subject.run(story)


def test_with_more_hops_it_is_another_task(subject: Subject) -> None:
    async def story(subject: Subject) -> None:
        await subject.store.end([await held(subject.store, new("a"))])
        assert await subject.store.publish([new("a", hops=1)]) == [STORED]
        ((lease, _),) = await take(subject.store)
        assert lease.hops == 1
        found = await subject.store.find("a")
        assert found
        assert (found.task.hops, found.state) == (1, TaskState.HELD)

    subject.run(story)


def test_two_nodes_that_publish_one_task_at_once_store_it_once(subject: Subject) -> None:
    async def story(subject: Subject) -> None:
        stores = [await subject.another() for _ in range(4)]
        group = [new(f"t{number}") for number in range(20)]
        told = await asyncio.gather(*(store.publish(group[::step]) for store, step in zip(stores, (1, -1, 1, -1), strict=True)))
        assert [answer for answers in told for answer in answers].count(STORED) == 20
        assert sorted(ids(await take(subject.store))) == sorted(new.task.id for new in group)

    subject.run(story)


# --- order ---


def test_tasks_are_taken_in_the_order_in_which_they_were_published(subject: Subject) -> None:
    async def story(subject: Subject) -> None:
        names = [f"t{number * 7 % 10}" for number in range(10)]
        await subject.store.publish([new(name) for name in names[:5]])
        await subject.store.publish([new(name) for name in names[5:]])
        assert ids(await take(subject.store, most=3)) == names[:3]
        assert ids(await take(subject.store)) == names[3:]

    subject.run(story)


def test_a_lower_rank_is_taken_first(subject: Subject) -> None:
    async def story(subject: Subject) -> None:
        await subject.store.publish([new("none"), new("ten", rank=10), new("zero", rank=0), new("two", rank=2)])
        assert ids(await take(subject.store)) == ["zero", "two", "ten", "none"]

    subject.run(story)


def test_one_without_a_priority_comes_after_the_largest_one(subject: Subject) -> None:
    async def story(subject: Subject) -> None:
        await subject.store.publish([new("none", rank=LAST), new("last", rank=9_999_999_999)])
        taken = await take(subject.store)
        assert [(task.id, task.rank) for _, task in taken] == [("last", 9_999_999_999), ("none", LAST)]

    subject.run(story)


def test_order_holds_over_all_destinations_of_a_taker(subject: Subject) -> None:
    async def story(subject: Subject) -> None:
        await subject.store.publish([new("common", rank=2), new("own", to="alpha", rank=1), new("tagged", to="tag:gpu", rank=3)])
        await subject.store.publish([new("more", to="alpha", rank=2)])
        assert ids(await take(subject.store, "any", "alpha", "tag:gpu", most=3)) == ["own", "common", "more"]

    subject.run(story)


def test_one_that_waits_again_keeps_its_place(subject: Subject) -> None:
    async def story(subject: Subject) -> None:
        first = await held(subject.store, new("first"))
        await subject.store.publish([new("second")])
        await subject.store.again([Again(first)])
        assert ids(await take(subject.store)) == ["first", "second"]

    subject.run(story)


# --- destinations ---


def test_a_task_for_a_node_waits_for_that_node(subject: Subject) -> None:
    async def story(subject: Subject) -> None:
        await subject.store.publish([new("a", to="alpha"), new("b", to="10.0.0.7:3031")])
        assert await take(subject.store, "any", "beta") == []
        assert ids(await take(subject.store, "any", "alpha")) == ["a"]
        assert ids(await take(subject.store, "10.0.0.7:3031")) == ["b"]

    subject.run(story)


def test_a_task_for_a_tag_waits_for_a_node_with_it(subject: Subject) -> None:
    async def story(subject: Subject) -> None:
        await subject.store.publish([new("a", to="tag:gpu")])
        assert await take(subject.store, "any", "gpu", "tag:cpu") == []
        assert ids(await take(subject.store, "any", "tag:gpu")) == ["a"]

    subject.run(story)


def test_what_waits_for_others_does_not_hide_what_is_for_this_one(subject: Subject) -> None:
    async def story(subject: Subject) -> None:
        others = [new(f"other{number}", to="beta", rank=0) for number in range(50)]
        await subject.store.publish([*others, new("mine", to="alpha")])
        assert ids(await take(subject.store, "alpha", most=1)) == ["mine"]

    subject.run(story)


def test_without_a_destination_nothing_is_taken(subject: Subject) -> None:
    async def story(subject: Subject) -> None:
        await subject.store.publish([new("a")])
        assert await subject.store.take(10, [], 30.0) == []
        assert await subject.store.take(0, ["any"], 30.0) == []

    subject.run(story)


# --- when ---


def test_a_task_is_not_taken_before_it_is_due(subject: Subject) -> None:
    async def story(subject: Subject) -> None:
        await subject.store.publish([new("a", due=subject.now() + 60), new("past", due=subject.now() - 60)])
        ((lease, task),) = await take(subject.store)
        assert task.id == "past"
        await subject.store.end([lease])
        assert ids(await take(await subject.pass_time(30))) == []
        assert ids(await take(await subject.pass_time(31))) == ["a"]

    subject.run(story)


def test_a_task_that_becomes_due_keeps_its_priority(subject: Subject) -> None:
    async def story(subject: Subject) -> None:
        await subject.store.publish([new("urgent", due=subject.now() + 60, rank=1), new("other", rank=2)])
        assert ids(await take(await subject.pass_time(61))) == ["urgent", "other"]

    subject.run(story)


def test_what_is_not_due_does_not_hide_what_is_ready(subject: Subject) -> None:
    async def story(subject: Subject) -> None:
        later = [new(f"later{number}", due=subject.now() + 60, rank=0) for number in range(50)]
        await subject.store.publish([*later, new("ready")])
        assert ids(await take(subject.store, most=1)) == ["ready"]

    subject.run(story)


# --- taking ---


def test_no_more_are_taken_than_were_asked_for(subject: Subject) -> None:
    async def story(subject: Subject) -> None:
        await subject.store.publish([new(f"t{number}") for number in range(10)])
        assert len(await take(subject.store, most=4)) == 4
        assert len(await take(subject.store, most=100)) == 6

    subject.run(story)


def test_two_takers_at_once_get_each_task_once(subject: Subject) -> None:
    async def story(subject: Subject) -> None:
        other = await subject.another()
        await subject.store.publish([new(f"t{number}", to="any" if number % 3 else "alpha") for number in range(300)])
        got: list[str] = []

        async def taker(store: CommonStore) -> None:
            while len(got) < 300:
                got.extend(ids(await take(store, "any", "alpha", most=7)))

        await asyncio.wait_for(asyncio.gather(taker(subject.store), taker(other)), 60)
        assert sorted(got) == sorted(f"t{number}" for number in range(300))

    subject.run(story)


def test_a_task_that_is_held_is_not_taken_by_another(subject: Subject) -> None:
    async def story(subject: Subject) -> None:
        await held(subject.store, new("a"))
        assert await take(await subject.another()) == []
        assert await take(await subject.pass_time(25)) == []

    subject.run(story)


def test_tasks_can_be_claimed_by_their_ids_due_or_not_and_wherever_they_are_to_go(subject: Subject) -> None:
    async def story(subject: Subject) -> None:
        await held(subject.store, new("held"))
        await subject.store.publish([new("later", due=subject.now() + 60), new("far", b"body", to="beta"), new("other")])
        claimed = await subject.store.claim(["later", "far", "held", "never"], 30.0)
        assert sorted(ids(claimed)) == ["far", "later"]
        assert ids(await take(await subject.pass_time(20), "any", "beta")) == ["other"]
        assert await subject.store.end([lease for lease, _ in claimed]) == frozenset()

    subject.run(story)


# --- leases ---


def test_a_lease_that_runs_out_gives_the_task_to_another_taker(subject: Subject) -> None:
    async def story(subject: Subject) -> None:
        first = await held(subject.store, new("a"), lease=30)
        ((second, task),) = await take(await subject.pass_time(31))
        assert (task.id, first.turn, second.turn) == ("a", 1, 2)

    subject.run(story)


def test_a_lease_that_is_extended_does_not(subject: Subject) -> None:
    async def story(subject: Subject) -> None:
        lease = await held(subject.store, new("a"), lease=30)
        later = await subject.pass_time(20)
        assert await later.extend([lease], 30) == frozenset()
        assert await take(await subject.pass_time(20)) == []
        assert ids(await take(await subject.pass_time(11))) == ["a"]

    subject.run(story)


def test_extending_tells_which_leases_are_lost(subject: Subject) -> None:
    async def story(subject: Subject) -> None:
        lost = await held(subject.store, new("a"), lease=10)
        kept = await held(subject.store, new("b"), lease=60)
        later = await subject.pass_time(20)
        await take(later)
        assert await later.extend([lost, kept], 30) == {lost}

    subject.run(story)


def test_a_taker_whose_lease_was_lost_cannot_end_the_task(subject: Subject) -> None:
    async def story(subject: Subject) -> None:
        first = await held(subject.store, new("a"), lease=10)
        later = await subject.pass_time(11)
        ((second, _),) = await take(later)
        assert await later.end([first]) == {first}
        assert await later.extend([second], 30) == frozenset()

    subject.run(story)


def test_a_taker_whose_lease_was_lost_cannot_let_the_task_wait_again(subject: Subject) -> None:
    async def story(subject: Subject) -> None:
        first = await held(subject.store, new("a"), lease=10)
        later = await subject.pass_time(11)
        ((second, _),) = await take(later)
        assert await later.again([Again(first)]) == {first}
        assert await take(later) == []
        assert await later.end([second]) == frozenset()

    subject.run(story)


def test_a_taker_whose_lease_was_lost_cannot_bury_the_task(subject: Subject) -> None:
    async def story(subject: Subject) -> None:
        first = await held(subject.store, new("a"), lease=10)
        later = await subject.pass_time(11)
        ((second, _),) = await take(later)
        assert await later.bury([Burial(first, "too often")]) == {first}
        assert await later.end([second]) == frozenset()

    subject.run(story)


def test_a_lease_that_ran_out_is_lost_even_if_nobody_else_has_taken_the_task(subject: Subject) -> None:
    async def story(subject: Subject) -> None:
        lease = await held(subject.store, new("a"), lease=10)
        later = await subject.pass_time(11)
        await take(later, "elsewhere")
        assert await later.end([lease]) == {lease}
        assert ids(await take(later)) == ["a"]

    subject.run(story)


def test_a_lost_lease_in_a_group_does_not_hold_up_the_others(subject: Subject) -> None:
    async def story(subject: Subject) -> None:
        leases = [await held(subject.store, new(name)) for name in ("a", "b", "c")]
        unknown = Lease("never", 0, 1)
        assert await subject.store.end([leases[0], unknown, leases[2]]) == {unknown}
        assert (await subject.store.count())[TaskState.HELD].number == 1

    subject.run(story)


# --- how it ends ---


def test_a_task_that_has_ended_is_not_taken_again(subject: Subject) -> None:
    async def story(subject: Subject) -> None:
        lease = await held(subject.store, new("a"))
        assert await subject.store.end([lease]) == frozenset()
        assert await take(await subject.pass_time(60)) == []
        found = await subject.store.find("a")
        assert found
        assert (found.state, found.task.block) == (TaskState.ENDED, b"")

    subject.run(story)


def test_an_end_that_is_repeated_is_not_lost(subject: Subject) -> None:
    async def story(subject: Subject) -> None:
        lease = await held(subject.store, new("a"))
        await subject.store.end([lease])
        assert await subject.store.end([lease]) == frozenset()
        other = lease._replace(turn=7)
        assert await subject.store.end([other]) == {other}

    subject.run(story)


def test_a_retry_waits_with_its_new_attempts_until_it_is_due(subject: Subject) -> None:
    async def story(subject: Subject) -> None:
        lease = await held(subject.store, new("a", b"body", rank=3))
        assert await subject.store.again([Again(lease, due=subject.now() + 60, attempts=4)]) == frozenset()
        assert await take(subject.store) == []
        later = await subject.pass_time(61)
        ((second, task),) = await take(later)
        assert (task.attempts, task.rank, await body_of(later, second)) == (4, 3, b"body")

    subject.run(story)


def test_a_retry_is_never_away(subject: Subject) -> None:
    """Whenever another node looks, the task is there: in its old state or in the new one."""

    async def story(subject: Subject) -> None:
        other = await subject.another()
        lease = await held(subject.store, new("a"))
        states: list[TaskState | None] = []
        done = asyncio.Event()

        async def look() -> None:
            while not done.is_set():
                found = await other.find("a")
                states.append(found and found.state)
                await asyncio.sleep(0)

        looking = asyncio.create_task(look())
        for _ in range(20):
            await subject.store.again([Again(lease)])
            await asyncio.sleep(0)
            ((lease, _),) = await take(subject.store)
        done.set()
        await looking
        assert set(states) <= {TaskState.HELD, TaskState.READY}
        assert states

    subject.run(story)


def test_a_lease_ends_with_again(subject: Subject) -> None:
    async def story(subject: Subject) -> None:
        lease = await held(subject.store, new("a"))
        await subject.store.again([Again(lease)])
        assert await subject.store.end([lease]) == {lease}
        assert ids(await take(subject.store)) == ["a"]

    subject.run(story)


def test_a_held_task_can_be_given_another_destination(subject: Subject) -> None:
    async def story(subject: Subject) -> None:
        lease = await held(subject.store, new("a", to="alpha", attempts=2))
        await subject.store.again([Again(lease, to="beta")])
        assert await take(subject.store, "alpha", "any") == []
        ((_, task),) = await take(subject.store, "beta")
        assert (task.to, task.attempts) == ("beta", 2)

    subject.run(story)


def test_what_was_buried_is_kept_with_its_reason_and_not_taken(subject: Subject) -> None:
    async def story(subject: Subject) -> None:
        lease = await held(subject.store, new("a", b"body"))
        assert await subject.store.bury([Burial(lease, "ValueError: no such group\n\0")]) == frozenset()
        assert await take(await subject.pass_time(60)) == []
        found = await subject.store.find("a")
        assert found
        assert (found.state, found.reason.rstrip("\0\n")) == (TaskState.DEAD, "ValueError: no such group")
        assert (found.task.block, found.task.size) == (BLOCK, 4)
        assert abs(subject.now() - 60 - found.finished) < 60

    subject.run(story)


@pytest.mark.parametrize(("told", "kept"), [(5, 5), (None, 2)])
def test_a_dead_task_has_as_many_attempts_as_its_taker_told(subject: Subject, told: int | None, kept: int) -> None:
    async def story(subject: Subject) -> None:
        lease = await held(subject.store, new("a", attempts=2))
        await subject.store.bury([Burial(lease, "why", told)])
        found = await subject.store.find("a")
        assert found
        assert found.task.attempts == kept

    subject.run(story)


async def buried(store: CommonStore, *tasks: NewTask) -> None:
    """Publishes tasks, takes each and gives it up."""
    for task in tasks:
        await store.bury([Burial(await held(store, task), "why")])


def test_a_dead_task_that_is_revived_is_ready_as_if_it_had_never_run(subject: Subject) -> None:
    async def story(subject: Subject) -> None:
        store = subject.store
        await buried(store, new("a", b"body", attempts=3, rank=2, due=subject.now() - 60), new("b"), new("c"))
        assert await store.revive(["a", "b", "never"]) == {"a", "b"}
        found = await store.find("a")
        assert found
        assert (found.state, found.reason, found.task) == (
            TaskState.READY, "", StoredTask("a", BLOCK, rank=2, attempts=0, due=0.0, size=4),
        )  # fmt: skip
        taken = await take(store)
        assert ids(taken) == ["a", "b"]
        assert await body_of(store, taken[0].lease) == b"body"

    subject.run(story)


def test_a_dead_task_can_be_revived_for_another_destination(subject: Subject) -> None:
    async def story(subject: Subject) -> None:
        await buried(subject.store, new("a", to="gone"))
        assert await subject.store.revive(["a"], "beta") == {"a"}
        assert await take(subject.store, "any", "gone") == []
        assert ids(await take(subject.store, "beta")) == ["a"]

    subject.run(story)


def test_only_what_is_dead_is_revived(subject: Subject) -> None:
    async def story(subject: Subject) -> None:
        store = subject.store
        await store.end([await held(store, new("ended"))])
        await held(store, new("held", attempts=1))
        await store.publish([new("ready", attempts=1), new("later", due=subject.now() + 60, attempts=1)])
        assert await store.revive([state.value for state in TaskState], "beta") == frozenset()
        assert await store.revive([]) == frozenset()
        for state in (TaskState.HELD, TaskState.READY, TaskState.LATER):
            found = await store.find(state.value)
            assert found
            assert (found.state, found.task.attempts, found.task.to) == (state, 1, "any")

    subject.run(story)


def test_dead_tasks_that_are_revived_page_by_page_are_on_one_page_each(subject: Subject) -> None:
    async def story(subject: Subject) -> None:
        store = subject.store
        await buried(store, *(new(f"t{number}", to="gone") for number in range(5)))
        cursor, sizes = "", []
        while not sizes or cursor:
            page = await store.list(TaskState.DEAD, 2, cursor)
            names = [found.task.id for found in page.tasks]
            assert await store.revive(names, "any") == frozenset(names)
            sizes.append(len(names))
            cursor = page.next
        assert sizes == [2, 2, 1]
        assert len(await take(store)) == 5

    subject.run(story)


def test_an_old_lease_of_a_task_that_was_revived_is_lost(subject: Subject) -> None:
    async def story(subject: Subject) -> None:
        lease = await held(subject.store, new("a"))
        await subject.store.bury([Burial(lease, "why")])
        await subject.store.revive(["a"])
        assert ids(await take(subject.store)) == ["a"]
        assert await subject.store.end([lease]) == {lease}

    subject.run(story)


# --- unique keys ---


def test_of_two_with_one_key_one_waits(subject: Subject) -> None:
    async def story(subject: Subject) -> None:
        assert await subject.store.publish([new("a", key=b"k"), new("b", key=b"k"), new("c", key=b"l")]) == [
            *(STORED, DUPLICATE, STORED)
        ]
        assert await subject.store.publish([new("d", key=b"k")]) == [DUPLICATE]
        assert ids(await take(subject.store)) == ["a", "c"]

    subject.run(story)


def test_a_key_is_free_again_once_its_task_was_taken(subject: Subject) -> None:
    async def story(subject: Subject) -> None:
        await held(subject.store, new("a", key=b"k"))
        assert await subject.store.publish([new("b", key=b"k")]) == [STORED]

    subject.run(story)


def test_one_that_is_not_due_holds_its_key_too(subject: Subject) -> None:
    async def story(subject: Subject) -> None:
        await subject.store.publish([new("a", key=b"k", due=subject.now() + 60)])
        assert await subject.store.publish([new("b", key=b"k")]) == [DUPLICATE]

    subject.run(story)


def test_of_many_that_come_at_once_with_one_key_one_waits(subject: Subject) -> None:
    async def story(subject: Subject) -> None:
        stores = [await subject.another() for _ in range(4)]
        told = await asyncio.gather(
            *(store.publish([new(f"{number}_{n}", key=b"k%d" % n) for n in range(10)]) for number, store in enumerate(stores))
        )
        assert [answer for answers in told for answer in answers].count(STORED) == 10
        assert len(await take(subject.store)) == 10

    subject.run(story)


def test_a_retry_ends_if_another_task_does_its_work(subject: Subject) -> None:
    async def story(subject: Subject) -> None:
        lease = await held(subject.store, new("a", b"body", key=b"k"))
        await subject.store.publish([new("b", key=b"k")])
        assert await subject.store.again([Again(lease)]) == frozenset()
        assert ids(await take(subject.store)) == ["b"]
        found = await subject.store.find("a")
        assert found
        assert (found.state, found.task.block, found.task.size) == (TaskState.ENDED, b"", 0)

    subject.run(story)


def test_of_two_with_one_key_that_go_back_together_one_waits(subject: Subject) -> None:
    async def story(subject: Subject) -> None:
        leases = [await held(subject.store, new(name, key=b"k")) for name in ("a", "b")]
        assert await subject.store.again([Again(lease) for lease in leases]) == frozenset()
        assert len(await take(subject.store)) == 1

    subject.run(story)


def test_of_two_with_one_key_that_are_revived_one_waits(subject: Subject) -> None:
    async def story(subject: Subject) -> None:
        store = subject.store
        await buried(store, new("a", key=b"k"), new("b", key=b"k"), new("c", b"body", key=b"l"))
        await store.publish([new("d", key=b"l")])
        assert await store.revive(["a", "b", "c"]) == {"a", "b", "c"}
        assert len(await take(store)) == 2
        found = await store.find("c")
        assert found
        assert (found.state, found.task.block) == (TaskState.ENDED, b"")

    subject.run(story)


def test_of_two_with_one_key_whose_leases_run_out_one_waits(subject: Subject) -> None:
    async def story(subject: Subject) -> None:
        for name in ("a", "b"):
            await held(subject.store, new(name, key=b"k"))
        await held(subject.store, new("c"))
        assert sorted(ids(await take(await subject.pass_time(31)))) in (["a", "c"], ["b", "c"])

    subject.run(story)


# --- bodies ---


@pytest.mark.parametrize("size", [0, 1, CHUNK, CHUNK + 1, 5 * MEBIBYTE])
def test_a_body_of_any_size_comes_out_as_it_went_in(subject: Subject, size: int) -> None:
    async def story(subject: Subject) -> None:
        body = bytes(range(251)) * (size // 251 + 1)
        lease = await held(subject.store, new("a", body[:size]))
        chunks = [chunk async for chunk in subject.store.body(lease)]
        assert b"".join(chunks) == body[:size]
        assert all(0 < len(chunk) <= CHUNK for chunk in chunks)
        found = await subject.store.find("a")
        assert found
        assert found.task.size == size

    subject.run(story)


class Torn(Content):
    """A body that fails, or ends, before it is whole."""

    size = 3 * CHUNK

    def __init__(self, error: type[Exception] | None) -> None:
        self._error = error

    async def chunks(self) -> AsyncIterator[bytes]:
        yield bytes(CHUNK)
        if self._error:
            raise self._error("the disk is broken")


@pytest.mark.parametrize("error", [None, OSError])
def test_a_body_is_stored_whole_or_the_group_not_at_all(subject: Subject, error: type[Exception] | None) -> None:
    async def story(subject: Subject) -> None:
        torn = NewTask(new("torn").task, Torn(error))
        with pytest.raises(error or BadTask):
            await subject.store.publish([new("a", b"body"), torn, new("b")])
        assert [await subject.store.find(name) for name in ("a", "torn", "b")] == [None] * 3
        assert await subject.store.publish([torn._replace(body=BytesContent(b"whole"))]) == [STORED]
        ((lease, _),) = await take(subject.store)
        assert await body_of(subject.store, lease) == b"whole"

    subject.run(story)


def test_a_body_can_be_looked_at_whoever_holds_it(subject: Subject) -> None:
    async def story(subject: Subject) -> None:
        store, body = subject.store, bytes(range(256)) * 4096
        assert await store.peek("a") == b""
        await store.publish([new("a", body), new("b")])
        assert (await store.peek("a"), await store.peek("b")) == (body, b"")
        (a, _), _ = await take(store)
        assert await store.peek("a") == body
        await store.bury([Burial(a, "why")])
        assert await store.peek("a") == body
        await store.remove("a")
        assert await store.peek("a") == b""

    subject.run(story)


def test_a_repeat_with_a_body_is_stored_once(subject: Subject) -> None:
    async def story(subject: Subject) -> None:
        body = bytes(CHUNK + 1)
        await subject.store.publish([new("a", body)])
        assert await subject.store.publish([new("a", body), new("b", b"b")]) == [REPEATED, STORED]
        taken = await take(subject.store)
        assert [await body_of(subject.store, lease) for lease, _ in taken] == [body, b"b"]

    subject.run(story)


def test_a_body_is_not_for_a_taker_whose_lease_was_lost(subject: Subject) -> None:
    async def story(subject: Subject) -> None:
        first = await held(subject.store, new("a", bytes(3 * CHUNK)), lease=10)
        body = subject.store.body(first)
        await anext(body)
        later = await subject.pass_time(11)
        await take(later)
        with pytest.raises(StoreAway, match="lost"):
            await anext(body)

    subject.run(story)


# --- looking ---


def test_a_task_is_found_in_each_state(subject: Subject) -> None:
    async def story(subject: Subject) -> None:
        store = subject.store
        await store.bury([Burial(await held(store, new("dead")), "why")])
        await store.end([await held(store, new("ended"))])
        await held(store, new("held"))
        await store.publish([new("ready", b"x"), new("later", due=subject.now() + 60)])
        for state in TaskState:
            found = await store.find(state.value)
            assert found
            assert (found.state, found.task.id) == (state, state.value)
            assert abs(found.accepted - subject.now()) < 60
        assert await store.find("never") is None
        assert await store.find("rea") is None

    subject.run(story)


def test_a_task_says_who_took_it_last_also_when_it_has_ended(subject: Subject) -> None:
    async def story(subject: Subject) -> None:
        store = subject.store

        async def by() -> str:
            found = await store.find("a")
            assert found
            return found.by

        await store.publish([new("a")])
        assert await by() == ""
        ((lease, _),) = await store.take(1, ["any"], 30.0, "0123456789ab alpha")
        assert [found.by for found in (await store.list(TaskState.HELD, 10)).tasks] == ["0123456789ab alpha"]
        await store.again([Again(lease)])
        assert await by() == "0123456789ab alpha"
        ((lease, _),) = await store.claim(["a"], 30.0)
        await store.again([Again(lease)])
        assert await by() == "0123456789ab alpha"
        ((lease, _),) = await store.take(1, ["any"], 30.0, "ba9876543210 beta")
        await store.end([lease])
        assert await by() == "ba9876543210 beta"

    subject.run(story)


def test_a_task_that_has_ended_says_when_and_how(subject: Subject) -> None:
    async def story(subject: Subject) -> None:
        store = subject.store
        failed = await held(store, new("failed", key=b"k"))
        await store.again([Again(await held(store, new("done")), attempts=1, reason="ValueError: once")])
        ((done, _),) = await take(store)
        await store.publish([new("removed")])
        await store.remove("removed")
        await store.end([done])
        await store.publish([new("other", key=b"k")])
        await store.again([Again(failed, reason="ValueError: no such customer")])
        for name, ending in (
            ("done", HowEnded.DONE),
            ("removed", HowEnded.REMOVED),
            ("failed", HowEnded.MERGED),
            ("other", None),
        ):
            found = await store.find(name)
            assert found
            assert found.ending == ending
            assert abs((found.finished or subject.now()) - subject.now()) < 60
            assert bool(found.finished) == (ending is not None)

    subject.run(story)


def test_a_retry_says_why_its_last_run_failed(subject: Subject) -> None:
    async def story(subject: Subject) -> None:
        store = subject.store

        async def reason() -> str:
            found = await store.find("a")
            assert found
            return found.reason

        lease = await held(store, new("a"))
        await store.again([Again(lease, subject.now() + 60, 1, reason="ValueError: no such customer\0")])
        assert (await reason()).rstrip("\0") == "ValueError: no such customer"
        later = await subject.pass_time(61)
        ((lease, _),) = await take(later)
        await later.again([Again(lease)])
        assert (await reason()).rstrip("\0") == "ValueError: no such customer"
        ((lease, _),) = await take(later)
        await later.again([Again(lease, reason="")])
        assert await reason() == ""

    subject.run(story)


def test_tasks_are_counted_by_state(subject: Subject) -> None:
    async def story(subject: Subject) -> None:
        store = subject.store
        await store.bury([Burial(await held(store, new("dead")), "why")])
        await store.end([await held(store, new("ended"))])
        await store.publish([new(f"t{number}") for number in range(5)] + [new("l", due=subject.now() + 60)])
        await take(store, most=2)
        counted = await store.count()
        assert {state: tally.number for state, tally in counted.items()} == {
            TaskState.READY: 3, TaskState.LATER: 1, TaskState.HELD: 2, TaskState.DEAD: 1,
        }  # fmt: skip
        assert all(tally.is_exact for tally in counted.values())

    subject.run(story)


def test_the_destinations_are_told_for_which_tasks_are_ready(subject: Subject) -> None:
    async def story(subject: Subject) -> None:
        store = subject.store
        assert await store.places(10) == []
        await held(store, new("held", to="gone"))
        ready = [new(f"{to}{n}", to=to, rank=n) for to in ("127.0.0.1:3031", "[::1]:3031", "tag:gpu", "any") for n in range(3)]
        await store.publish([*ready, new("later", to="beta", due=subject.now() + 60)])
        assert await store.places(10) == ["127.0.0.1:3031", "[::1]:3031", "any", "tag:gpu"]
        assert await store.places(2) == ["127.0.0.1:3031", "[::1]:3031"]
        assert "beta" in await (await subject.pass_time(90)).places(10)

    subject.run(story)


@pytest.mark.parametrize("state", list(TaskState))
def test_a_list_has_each_task_on_one_page(subject: Subject, state: TaskState) -> None:
    async def story(subject: Subject) -> None:
        store = subject.store
        due = subject.now() + 60 if state == TaskState.LATER else 0.0
        tasks = [new(f"t{n}", to=("any", "alpha")[n % 2], rank=n % 3, due=due and due + n // 2) for n in range(11)]
        await store.publish(tasks)
        if state not in (TaskState.READY, TaskState.LATER):
            leases = [lease for lease, _ in await take(store, "any", "alpha")]
            if state == TaskState.ENDED:
                await store.end(leases)
            elif state == TaskState.DEAD:
                await store.bury([Burial(lease, "why") for lease in leases])
        seen: list[str] = []
        cursor, pages = "", 0
        while pages == 0 or cursor:
            page = await store.list(state, 4, cursor)
            assert all(found.state == state for found in page.tasks)
            seen += [found.task.id for found in page.tasks]
            cursor, pages = page.next, pages + 1
        assert (sorted(seen), pages) == (sorted(task.task.id for task in tasks), 3)

    subject.run(story)


def test_a_list_has_its_order(subject: Subject) -> None:
    async def story(subject: Subject) -> None:
        now = subject.now()
        await subject.store.publish([new("b", to="beta"), new("a2", to="alpha"), new("a1", to="alpha", rank=1)])
        await subject.store.publish([new("second", due=now + 90), new("first", due=now + 60)])
        ready = await subject.store.list(TaskState.READY, 10)
        assert [found.task.id for found in ready.tasks] == ["a1", "a2", "b"]
        later = await subject.store.list(TaskState.LATER, 10)
        assert [found.task.id for found in later.tasks] == ["first", "second"]
        assert later.next == ""

    subject.run(story)


def test_what_waits_or_is_dead_can_be_removed(subject: Subject) -> None:
    async def story(subject: Subject) -> None:
        store = subject.store
        await store.bury([Burial(await held(store, new("dead")), "why")])
        await store.publish([new("ready", b"body"), new("later", due=subject.now() + 60)])
        for name in ("dead", "ready", "later"):
            assert await store.remove(name) == TaskState(name)
            assert await store.remove(name) is None
        assert await take(await subject.pass_time(61)) == []
        assert await store.publish([new("ready", b"body")]) == [REPEATED]
        assert await store.remove("never") is None

    subject.run(story)


def test_what_is_held_is_not_removed(subject: Subject) -> None:
    async def story(subject: Subject) -> None:
        lease = await held(subject.store, new("a"))
        assert await subject.store.remove("a") == TaskState.HELD
        assert await subject.store.end([lease]) == frozenset()

    subject.run(story)


def test_a_key_is_free_again_once_its_task_was_removed(subject: Subject) -> None:
    async def story(subject: Subject) -> None:
        await subject.store.publish([new("a", key=b"k")])
        await subject.store.remove("a")
        assert await subject.store.publish([new("b", key=b"k")]) == [STORED]

    subject.run(story)


# --- watching ---


async def woken(watching: "asyncio.Task[bool]") -> None:
    """Returns when a watcher is woken. That it takes less than a second is no matter for a busy machine to judge."""
    assert await asyncio.wait_for(watching, 30)


async def begun(watching: "asyncio.Task[bool]") -> None:
    """Returns when a watcher waits."""
    for _ in range(20):
        await asyncio.sleep(0.01)
    assert not watching.done()


def test_a_watcher_is_woken_by_another_nodes_task(subject: Subject) -> None:
    async def story(subject: Subject) -> None:
        other = await subject.another()
        watching = asyncio.create_task(subject.store.watch(["any", "alpha"], 60))
        await begun(watching)
        await other.publish([new("a", to="alpha")])
        await woken(watching)

    subject.run(story)


def test_a_watcher_does_not_wait_if_something_is_there_already(subject: Subject) -> None:
    async def story(subject: Subject) -> None:
        await subject.store.publish([new("a")])
        assert await subject.store.watch(["any"], 0)

    subject.run(story)


def test_a_watcher_is_not_woken_by_what_is_for_others(subject: Subject) -> None:
    async def story(subject: Subject) -> None:
        watching = asyncio.create_task(subject.store.watch(["any"], 60))
        await begun(watching)
        await subject.store.publish([new("a", to="beta"), new("b", due=subject.now() + 60)])
        await begun(watching)
        await subject.store.publish([new("c")])
        await woken(watching)

    subject.run(story)


def test_a_watcher_is_woken_by_a_retry(subject: Subject) -> None:
    async def story(subject: Subject) -> None:
        lease = await held(subject.store, new("a"))
        watching = asyncio.create_task(subject.store.watch(["any"], 60))
        await begun(watching)
        await subject.store.again([Again(lease)])
        await woken(watching)

    subject.run(story)


def test_a_watcher_is_woken_by_a_task_that_is_revived(subject: Subject) -> None:
    async def story(subject: Subject) -> None:
        await buried(subject.store, new("a"))
        watching = asyncio.create_task(subject.store.watch(["any"], 3600))
        await begun(watching)
        await (await subject.another()).revive(["a"])
        await woken(watching)

    subject.run(story)


def test_a_watcher_is_woken_by_a_lease_that_runs_out_and_by_what_becomes_due(subject: Subject) -> None:
    async def story(subject: Subject) -> None:
        await held(subject.store, new("a"))
        await subject.store.publish([new("b", to="alpha", due=subject.now() + 30)])
        watching = [asyncio.create_task(subject.store.watch([place], 90)) for place in ("any", "alpha")]
        await begun(watching[0])
        await subject.pass_time(31)
        for watcher in watching:
            await woken(watcher)

    subject.run(story)


def test_a_watcher_gives_up_in_time(subject: Subject) -> None:
    async def story(subject: Subject) -> None:
        watching = asyncio.create_task(subject.store.watch(["any"], 0.4))
        await asyncio.sleep(0)
        await subject.pass_time(1)
        assert not await asyncio.wait_for(watching, 30)

    subject.run(story)


# --- a store that is away ---


async def verbs(store: CommonStore, lease: Lease) -> list[str]:
    """Tries every verb; returns those that did not say that the store is away."""
    tried = {
        "publish": store.publish([new("x")]),
        "take": take(store),
        "claim": store.claim(["a"], 30),
        "body": body_of(store, lease),
        "extend": store.extend([lease], 30),
        "end": store.end([lease]),
        "again": store.again([Again(lease)]),
        "bury": store.bury([Burial(lease, "why")]),
        "find": store.find("a"),
        "list": store.list(TaskState.READY, 10),
        "count": store.count(),
        "peek": store.peek("a"),
        "places": store.places(10),
        "remove": store.remove("a"),
        "revive": store.revive(["a"]),
        "watch": store.watch(["any"], 30),
        "check": store.check(),
    }
    told = dict(zip(tried, await asyncio.gather(*tried.values(), return_exceptions=True), strict=True))
    return [f"{verb}: {answer!r}" for verb, answer in told.items() if not isinstance(answer, StoreAway)]


def test_a_store_that_is_away_is_one_clear_error(subject: Subject) -> None:
    async def story(subject: Subject) -> None:
        lease = await held(subject.store, new("a", b"body"))
        await subject.cut(True)
        assert await verbs(subject.store, lease) == []
        with pytest.raises(SpoolnodeError, match="away") as caught:
            await subject.store.count()
        assert "\n" not in str(caught.value)
        assert "password" not in str(caught.value)
        await subject.cut(False)

    subject.run(story)


def test_a_store_that_is_back_goes_on(subject: Subject) -> None:
    async def story(subject: Subject) -> None:
        lease = await held(subject.store, new("a", b"body"))
        await subject.cut(True)
        with pytest.raises(StoreAway):
            await subject.store.publish([new("b")])
        await subject.cut(False)
        assert await subject.store.publish([new("b")]) in ([STORED], [REPEATED])
        assert await body_of(subject.store, lease) == b"body"
        assert await subject.store.end([lease]) == frozenset()
        assert ids(await take(subject.store)) == ["b"]

    subject.run(story)


def test_a_store_says_what_an_acknowledgement_is_worth(subject: Subject) -> None:
    async def story(subject: Subject) -> None:
        said = await subject.store.check()
        assert said.engine
        assert said.facts
        assert max(said.survives_lost_disk, said.survives_power_cut) <= said.survives_crash
        assert said.survives_lost_disk or said.advice

    subject.run(story)


def test_a_store_speaks_of_itself(subject: Subject) -> None:
    async def story(subject: Subject) -> None:
        assert repr(subject.store).startswith(f"<{type(subject.store).__name__} ")
        assert new("a").task._replace(size=0) == new("a").task
        assert new("a").body is NO_BODY

    subject.run(story)
