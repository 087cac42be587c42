"""The promise of every store about limited functions: over all nodes, no more of their tasks run at once than the limit says."""

import asyncio

from store_tasks import held, new, take
from subjects import Subject

from spoolnode.cluster.store.interface import Again, Burial, Lease


async def many(subject: Subject, *names: str, seconds: float = 30.0) -> list[Lease]:
    """Tasks that are held."""
    return [await held(subject.store, new(name), lease=seconds) for name in names]


def test_no_more_tasks_of_a_function_are_admitted_than_its_limit_says_and_those_told_first_come_first(subject: Subject) -> None:
    async def story(subject: Subject) -> None:
        leases = await many(subject, "a", "b", "c")
        assert await subject.store.admit("f", 2, leases[::-1]) == {leases[2], leases[1]}
        assert await subject.store.admit("f", 2, leases[:1]) == frozenset()

    subject.run(story)


def test_one_that_was_admitted_is_so_again_when_the_answer_was_lost(subject: Subject) -> None:
    async def story(subject: Subject) -> None:
        first, second = await many(subject, "a", "b")
        for _ in range(2):
            assert await subject.store.admit("f", 1, [first]) == {first}
            assert await subject.store.admit("f", 1, [second, first]) == {first}

    subject.run(story)


def test_the_limit_of_one_function_is_not_that_of_another(subject: Subject) -> None:
    async def story(subject: Subject) -> None:
        first, second = await many(subject, "a", "b")
        assert await subject.store.admit("f", 1, [first]) == {first}
        assert await subject.store.admit("g\udcff", 1, [second]) == {second}

    subject.run(story)


def test_a_place_is_free_when_its_task_has_ended_waits_again_or_is_dead(subject: Subject) -> None:
    async def story(subject: Subject) -> None:
        leases = await many(subject, "a", "b", "c", "d")
        store = subject.store
        assert await store.admit("f", 1, leases) == {leases[0]}
        await store.end(leases[:1])
        assert await store.admit("f", 1, leases) == {leases[1]}
        await store.again([Again(leases[1])])
        assert await store.admit("f", 1, leases) == {leases[2]}
        await store.bury([Burial(leases[2], "why")])
        assert await store.admit("f", 1, leases) == {leases[3]}

    subject.run(story)


def test_the_place_of_a_node_that_died_is_free_when_its_lease_has_run_out_and_not_before(subject: Subject) -> None:
    async def story(subject: Subject) -> None:
        (first,) = await many(subject, "a", seconds=20)
        (second,) = await many(subject, "b", seconds=60)
        assert await subject.store.admit("f", 1, [first]) == {first}
        before = await subject.pass_time(15)
        await take(before, "nowhere")
        assert await before.admit("f", 1, [second]) == frozenset()
        after = await subject.pass_time(10)
        await take(after, "nowhere")  # it notices leases that ran out
        assert await after.admit("f", 1, [first, second]) == {second}

    subject.run(story)


def test_one_that_is_over_does_not_count_before_the_store_is_told_what_became_of_it(subject: Subject) -> None:
    async def story(subject: Subject) -> None:
        first, second, third = await many(subject, "a", "b", "c")
        assert await subject.store.admit("f", 2, [first, second]) == {first, second}
        assert await subject.store.admit("f", 2, [third]) == frozenset()
        assert await subject.store.admit("f", 2, [third], [first]) == {third}
        assert await subject.store.admit("f", 2, [second, third]) == {second, third}
        assert await subject.store.end([first]) == frozenset()

    subject.run(story)


def test_a_task_that_is_taken_again_asks_again(subject: Subject) -> None:
    async def story(subject: Subject) -> None:
        first, second = await many(subject, "a", "b")
        assert await subject.store.admit("f", 1, [first]) == {first}
        await subject.store.again([Again(first)])
        ((again, _),) = await take(subject.store)
        assert await subject.store.admit("f", 1, [second, again]) == {second}
        assert await subject.store.admit("f", 1, [again]) == frozenset()

    subject.run(story)


def test_each_node_goes_by_its_own_limit(subject: Subject) -> None:
    async def story(subject: Subject) -> None:
        leases = await many(subject, "a", "b", "c", "d", "e")
        old, later = subject.store, await subject.another()
        assert await later.admit("f", 3, leases[:2]) == set(leases[:2])
        assert await old.admit("f", 2, leases[2:]) == frozenset()
        assert await later.admit("f", 3, leases[2:4]) == {leases[2]}
        await later.end(leases[:1])
        assert await old.admit("f", 2, leases[3:]) == frozenset()
        await later.end(leases[1:2])
        assert await old.admit("f", 2, leases[3:]) == {leases[3]}

    subject.run(story)


def test_nodes_that_ask_at_the_same_moment_are_not_admitted_beyond_the_limit(subject: Subject) -> None:
    async def story(subject: Subject) -> None:
        stores = [await subject.another() for _ in range(4)]
        leases = await many(subject, *(f"t{number}" for number in range(12)))
        shares = [leases[number::4] for number in range(4)]
        for _ in range(4):
            told = await asyncio.gather(*(store.admit("f", 3, share) for store, share in zip(stores, shares, strict=True)))
            running = [lease for admitted in told for lease in admitted]
            assert len(running) <= 3
            ended = await subject.store.admit("f", 3, leases)
            assert ended.issuperset(running)
            assert len(ended) == 3
            await subject.store.end([*ended])
            shares = [[lease for lease in share if lease not in ended] for share in shares]
            leases = [lease for lease in leases if lease not in ended]

    subject.run(story)
