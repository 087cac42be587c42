"""Tasks of a common store, through the API of a node: shown, retried, removed, cancelled; in a store in memory."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from controlled import DEAD, WAITS, Node, run
from linked import NODE
from store_tasks import held, new, take

from spoolnode.cluster.store import by_hand
from spoolnode.cluster.store.by_hand import ByHand
from spoolnode.cluster.store.contact import Contact
from spoolnode.cluster.store.interface import Again, Burial, CommonStore, NewTask, StoredTask, TaskState
from spoolnode.cluster.store.memory import MemoryStore
from spoolnode.node.commons import NoCommons
from spoolnode.node.control import cancels, in_store, store_pages, stored_dead
from spoolnode.node.control.in_store import InStore
from spoolnode.node.story import notes
from spoolnode.node.story.keeper import Untold
from spoolnode.node.story.notes import Happened
from spoolnode.protocol import names
from spoolnode.protocol.cancel import CancelRequest
from spoolnode.protocol.packet import encode_variables

A, B = (f"aaaaaaaaaaaa_{1_800_000_000_000_000 + number}_80" for number in (1, 2))


class Joined(NoCommons):
    """What an operator may use of a store."""

    is_joined = True

    def __init__(self, store: CommonStore) -> None:
        async def connect() -> CommonStore:
            return store

        self.contact = Contact(connect, lambda _action, **_details: None)
        self.tasks = ByHand(self.contact)

    async def open(self) -> None:
        await self.contact.open()


Story = Callable[[Node, MemoryStore], Awaitable[None]]


def tell(root: Path, story: Story, store: MemoryStore | None = None, **settings: Any) -> None:
    """Tells a story of a node and its store."""
    there = store or MemoryStore()
    commons = Joined(there)

    async def told(node: Node) -> None:
        await commons.open()
        try:
            await story(node, there)
        finally:
            await commons.contact.close()

    run(root / "spool", told, commons, **settings)


async def state(store: CommonStore, identity: str = A) -> tuple[str, str]:
    """The state of a task, and why it is dead."""
    found = await store.find(identity)
    assert found
    return found.state.value, found.reason


async def dead(store: CommonStore, identity: str = A, reason: str = "ValueError: no such customer") -> None:
    """One task is dead."""
    await store.bury([Burial(await held(store, new(identity, attempts=3)), reason)])


def test_a_task_is_shown_as_it_is_in_the_store(tmp_path: Path) -> None:
    async def story(node: Node, store: MemoryStore) -> None:
        async def shown() -> dict[str, Any]:
            status, found = await node.ask("GET", f"/tasks/{A}")
            assert (status, found["id"], found["where"]) == (200, A, "store")
            return dict(found)

        block = encode_variables([(b"to", b"ada"), (b"password", b"secret")])
        await store.publish([NewTask(StoredTask(A, block, to="tag:gpu", rank=3, due=store.now + 60))])
        found = await shown()
        assert (found["state"], found["due_at"], found["priority"], found["destination"]) == (
            "later",
            store.now + 60,
            3,
            "tag:gpu",
        )
        assert found["variables"] == {"to": "ada", "password": "••••"}
        store.advance(60)
        assert (await shown())["state"] == "waiting"
        ((lease, _),) = await take(store, "tag:gpu")
        assert (await shown())["state"] == "held"
        await store.again([Again(lease, attempts=2)])
        ((lease, _),) = await take(store, "tag:gpu")
        store.advance(5)
        await store.bury([Burial(lease, "ValueError: no such customer")])
        found = await shown()
        assert (found["state"], found["attempts"], found["spool_reason"]) == ("dead", 2, "ValueError: no such customer")
        assert (found["accepted_at"], found["changed_at"]) == (store.now - 65, store.now)
        await store.remove(A)
        status, found = await node.ask("GET", f"/tasks/{A}")
        assert (status, found) == (200, {"id": A, "state": "ended", "story": [{"at": store.now, "event": "removed", "id": A}]})

    tell(tmp_path, story)


def test_the_age_of_a_task_that_a_node_has_kept_meanwhile_begins_when_it_was_acknowledged(tmp_path: Path) -> None:
    async def story(node: Node, store: MemoryStore) -> None:
        await store.publish([new(A)])
        store.advance(600)
        kept = f"aaaaaaaaaaaa_{int((store.now - 400) * 1e6)}_80"
        await store.publish([new(kept)])
        _, page = await node.ask("GET", "/tasks?state=waiting")
        shown = {row["id"]: row["accepted_at"] for row in page["items"]}
        assert (shown[A], shown[kept]) == (store.now - 600, store.now - 400)

    tell(tmp_path, story)


def test_a_task_says_which_node_holds_it_and_how_and_where_it_has_ended(tmp_path: Path) -> None:
    async def story(node: Node, store: MemoryStore) -> None:
        async def shown(identity: str) -> dict[str, Any]:
            status, found = await node.ask("GET", f"/tasks/{identity}")
            assert status == 200
            return dict(found)

        missing = "what happened to it on beta is missing here; `spoolnode show` on that node may have it"
        await store.publish([new(A), new(B)])
        (a, _), (b, _) = await store.take(2, ["any"], 30.0, "bbbbbbbbbbbb beta")
        found = await shown(A)
        assert (found["state"], found["node"], found["missing"], found["story"]) == ("held", "beta", missing, [])
        await store.again([Again(a, attempts=1, reason="ValueError: no such customer")])
        found = await shown(A)
        assert (found["state"], found["last_error"], "node" in found) == ("waiting", "ValueError: no such customer", False)
        await store.end([b])
        step = {"at": store.now, "event": "done", "id": B, "node": "beta"}
        assert await shown(B) == {"id": B, "state": "ended", "missing": missing, "story": [step]}
        status, answer = await node.ask("POST", f"/tasks/{B}/cancel")
        assert (status, answer["outcome"]) == (200, "done")
        assert answer["reason"] == f"the task {B} had ended well on beta before it could be cancelled"
        await store.remove(A)
        status, problem = await node.ask("POST", f"/tasks/{A}/cancel")
        assert (status, problem["detail"]) == (409, f"the task {A} was removed before, and not cancelled")
        assert (await shown(A))["story"] == [{"at": store.now, "event": "removed", "id": A}], "not by the node that ran it last"

    tell(tmp_path, story)


@pytest.mark.parametrize("ends", [True, False])
def test_a_task_that_this_node_is_just_giving_back_is_cancelled_in_a_moment(tmp_path: Path, ends: bool) -> None:
    async def story(node: Node, store: MemoryStore) -> None:
        await store.publish([new(A)])
        ((lease, _),) = await store.take(1, ["any"], 30.0, f"{NODE} alpha")
        asked = asyncio.ensure_future(node.ask("POST", f"/tasks/{A}/cancel"))
        while not asked.done() and store.finds < 2:  # type: ignore[attr-defined] # it is one that counts them
            await asyncio.sleep(0.001)
        await (store.end([lease]) if ends else store.again([Again(lease)]))
        status, answer = await asked
        assert (status, answer["outcome"]) == (200, "done" if ends else "cancelled"), answer
        assert (await state(store))[0] == ("ended" if ends else "dead")

    class Counting(MemoryStore):
        finds = 0

        async def find(self, identity: str) -> Any:
            self.finds += 1
            return await super().find(identity)

    tell(tmp_path, story, Counting())


def test_a_task_of_which_it_is_not_known_whether_it_is_here_is_not_cancelled(tmp_path: Path, monkeypatch: Any) -> None:
    async def story(node: Node, store: MemoryStore) -> None:
        await store.publish([new(A)])
        await store.take(1, ["any"], 30.0, f"{NODE} alpha")
        status, answer = await node.ask("POST", f"/tasks/{A}/cancel")
        assert (status, answer["outcome"]) == (200, "unsure")
        assert "on its way here from the common store, or back; ask again" in answer["reason"]

    monkeypatch.setattr(cancels, "MOVING_SECONDS", 0.001)
    tell(tmp_path, story)


def test_a_task_that_went_from_the_disk_into_the_store_is_looked_for_there(tmp_path: Path) -> None:
    class Told(Untold):
        async def steps(self, identity: str) -> list[Happened]:
            return [Happened(1.0, notes.FORWARDED, B, {"to": "any", "peer": "store"}, None, A)]

    async def main() -> None:
        store = MemoryStore()
        commons = Joined(store)
        await commons.open()
        await store.publish([new(A)])
        journal: Any = SimpleNamespace(story=Told())
        of_node = InStore(commons, journal, lambda _action, **_details: None)
        found = await of_node.follow(B, await Told().steps(B))
        assert (found and found.id) == A
        await commons.contact.close()

    asyncio.run(main())


def test_a_task_on_the_own_disk_is_shown_from_there_also_while_the_store_is_away(tmp_path: Path) -> None:
    async def story(node: Node, store: MemoryStore) -> None:
        await store.publish([new(WAITS)])
        store.is_away = True
        status, found = await node.ask("GET", f"/tasks/{WAITS}")
        assert (status, found["state"], found["where"]) == (200, "waiting", f"uwsgi_spoolfile_on_{WAITS}")

    tell(tmp_path, story)


@pytest.mark.parametrize(("method", "verb"), [("GET", ""), ("POST", "/retry"), ("DELETE", "")])
def test_while_the_store_is_away_or_silent_the_answer_is_not_now(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str, verb: str
) -> None:
    class Silent(MemoryStore):
        async def find(self, identity: str) -> Any:
            if not self.is_away:
                await asyncio.Event().wait()
            return await super().find(identity)

    async def story(node: Node, store: MemoryStore) -> None:
        monkeypatch.setattr(by_hand, "ANSWER_SECONDS", 0.01)
        status, problem = await node.ask(method, f"/tasks/{A}{verb}")
        assert (status, problem["detail"]) == (
            503,
            "the common store has not answered for 0.01 s, and may still do what was asked",
        )
        monkeypatch.setattr(by_hand, "ANSWER_SECONDS", 60.0)
        store.is_away = True
        status, problem = await node.ask(method, f"/tasks/{A}{verb}")
        assert (status, problem["title"]) == (503, "Service Unavailable")
        assert problem["detail"].startswith("the common store is away (")

    tell(tmp_path, story, Silent())


def test_a_store_that_is_known_to_be_away_is_not_asked(tmp_path: Path) -> None:
    class Asked(MemoryStore):
        finds = 0

        async def find(self, identity: str) -> Any:
            self.finds += 1
            return await super().find(identity)

    async def story(node: Node, store: MemoryStore) -> None:
        store.is_away = True
        for _ in range(5):
            assert (await node.ask("GET", f"/tasks/{A}"))[0] == 503
        assert isinstance(store, Asked)
        assert store.finds == 1

    tell(tmp_path, story, Asked())


def test_of_a_task_whose_story_says_that_it_has_ended_the_store_is_not_asked() -> None:
    class Told(Untold):
        async def steps(self, identity: str) -> list[Happened]:
            return [Happened(1.0, notes.DONE, identity, {}, None, None)]

    async def main() -> None:
        store: Any = None  # an error if it is asked
        journal: Any = SimpleNamespace(story=Told())
        of_node = InStore(Joined(store), journal, lambda _action, **_details: None)
        never: Any = None
        assert await of_node.cancel(CancelRequest(A, "ada", 1.0, 1.0), never) is None
        assert await of_node.follow(A, await Told().steps(A)) is None

    asyncio.run(main())


def test_a_dead_task_is_retried_and_one_that_is_due_later_is_ready_now(tmp_path: Path) -> None:
    async def story(node: Node, store: MemoryStore) -> None:
        await dead(store)
        await store.publish([new(B, to="beta", due=store.now + 60, attempts=1)])
        assert await node.ask("POST", f"/tasks/{A}/retry") == (200, {"id": A, "ready": True, "destination": None})
        assert await node.ask("POST", f"/tasks/{B}/retry") == (200, {"id": B, "ready": True, "destination": "beta"})
        assert [(task.id, task.attempts) for _, task in await take(store, "any", "beta")] == [(A, 0), (B, 1)]

    tell(tmp_path, story)


def test_a_task_that_waits_or_is_dead_is_removed(tmp_path: Path) -> None:
    async def story(node: Node, store: MemoryStore) -> None:
        await dead(store)
        await store.publish([new(B)])
        for identity in (A, B):
            assert await node.ask("DELETE", f"/tasks/{identity}") == (200, {"id": identity, "removed": True})
            assert (await node.ask("DELETE", f"/tasks/{identity}"))[0] == 404
        assert await take(store) == []

    tell(tmp_path, story)


def test_a_task_that_waits_is_cancelled_and_is_dead_with_the_reason(tmp_path: Path) -> None:
    async def story(node: Node, store: MemoryStore) -> None:
        await store.publish([new(A), new(B, due=store.now + 60)])
        for identity in (A, B, A):  # the second time it is known to be cancelled
            status, answer = await node.ask("POST", f"/tasks/{identity}/cancel?by=ada")
            assert (status, answer["outcome"]) == (200, "cancelled")
            assert await state(store, identity) == ("dead", "cancelled by ada")
        assert node.storage.journal.counts.cancelled == 2

    tell(tmp_path, story)


def test_one_that_a_node_holds_is_left_alone_and_the_answer_says_what_to_do(tmp_path: Path) -> None:
    async def story(node: Node, store: MemoryStore) -> None:
        lease = await held(store, new(A))
        what = f"the task {A} is held: a node has taken it from the common store, and runs it or is about to; "
        status, problem = await node.ask("POST", f"/tasks/{A}/retry")
        assert (status, problem["detail"]) == (409, f"{what}it can be retried when it is dead, or waits for its time")
        status, problem = await node.ask("DELETE", f"/tasks/{A}")
        assert (status, problem["detail"]) == (409, f"{what}only waiting and dead tasks can be removed")
        status, answer = await node.ask("POST", f"/tasks/{A}/cancel")
        assert (status, answer["outcome"], answer["reason"]) == (200, "unsure", f"{what}`spoolnode cancel` on that node ends it")
        assert await store.end([lease]) == frozenset()

    tell(tmp_path, story)


def test_what_makes_no_sense_in_its_state_is_refused_with_a_sentence(tmp_path: Path) -> None:
    async def story(node: Node, store: MemoryStore) -> None:
        await store.publish([new(A, to="tag:gpu")])
        await dead(store, B)
        status, problem = await node.ask("POST", f"/tasks/{A}/retry")
        assert (status, problem["detail"]) == (409, f"the task {A} is ready already: it waits in the common store for tag:gpu")
        status, problem = await node.ask("POST", f"/tasks/{B}/cancel")
        assert (status, problem["detail"]) == (
            409,
            f"the task {B} is dead in the common store; it has ended, and was not cancelled",
        )
        for method, verb in (("POST", "/retry"), ("POST", "/cancel"), ("DELETE", "")):
            status, problem = await node.ask(method, f"/tasks/bbbbbbbbbbbb_1_80{verb}")
            assert status == 404
            assert problem["detail"].startswith("there is no task bbbbbbbbbbbb_1_80 here")

    tell(tmp_path, story)


def test_what_waits_for_a_node_that_is_forgotten_goes_on_also_part_by_part(tmp_path: Path) -> None:
    async def story(node: Node, store: MemoryStore) -> None:
        ready = [new(f"aaaaaaaaaaaa_{number}_80", to="gamma") for number in range(300)]
        later = [new(f"bbbbbbbbbbbb_{number}_80", to="gamma", due=store.now + 60) for number in range(300)]
        await store.publish([*ready, *later, new(A, to="delta")])
        status, found = await node.ask("GET", "/forget?node=gamma")
        assert (status, found["unsent"], found["has_store"]) == (200, 0, True)
        status, done = await node.ask("POST", "/forget?node=gamma&move_to=tag:gpu")
        assert (status, done["moved"], done["moved_in_store"], done["missing"]) == (200, 0, 600, "")
        assert len(await take(store, "tag:gpu", most=1000)) == 300
        assert {found.task.to for found in (await store.list(TaskState.LATER, 1000)).tasks} == {"tag:gpu"}
        for wrong in ("node=gamma", "node=gamma&move_to=all", "node=gamma&move_to=gamma", "node=any&move_to=tag:gpu"):
            assert (await node.ask("POST", f"/forget?{wrong}"))[0] == 409
        store.is_away = True
        status, done = await node.ask("POST", "/forget?node=delta&move_to=any")
        assert (status, done["moved_in_store"]) == (200, 0)
        assert done["missing"].startswith("not all tasks of the common store were moved: ")

    tell(tmp_path, story)


def test_a_task_that_is_taken_at_the_same_moment_is_looked_at_again(tmp_path: Path) -> None:
    class Quick(MemoryStore):
        async def claim(self, identities: Any, lease: float) -> Any:
            await self.take(1, ["any"], 30.0)  # another node was faster
            return await super().claim(identities, lease)

    async def story(node: Node, store: MemoryStore) -> None:
        await store.publish([new(A)])
        assert (await node.ask("POST", f"/tasks/{A}/cancel"))[1]["outcome"] == "unsure"
        assert await state(store) == ("held", "")

    tell(tmp_path, story, Quick())


def test_a_change_that_broke_off_leaves_the_task_as_it_was(tmp_path: Path) -> None:
    class Broken(MemoryStore):
        async def bury(self, burials: Any) -> Any:
            self.is_away = True
            return await super().bury(burials)

    async def story(node: Node, store: MemoryStore) -> None:
        await store.publish([new(A)])
        status, answer = await node.ask("POST", f"/tasks/{A}/cancel")
        assert (status, answer["outcome"]) == (200, "unsure")
        assert "the common store is away" in answer["reason"]
        store.is_away = False
        store.advance(by_hand.CLAIM_SECONDS)
        assert await state(store) == (TaskState.READY, "")

    tell(tmp_path, story, Broken())


async def listed(node: Node, query: str) -> tuple[list[dict[str, Any]], str | None]:
    """A page of a list."""
    status, page = await node.ask("GET", f"/tasks?{query}")
    assert (status, page["missing"]) == (200, "")
    return page["items"], page["next"]


async def pages(node: Node, query: str) -> list[list[str]]:
    """The ids of all pages of a list."""
    items, after = await listed(node, query)
    found = [[row["id"] for row in items]]
    while after is not None:
        items, after = await listed(node, f"{query}&cursor={after}")
        found.append([row["id"] for row in items])
    return found


def test_lists_have_the_tasks_of_the_store_behind_those_on_the_disk_page_by_page(tmp_path: Path) -> None:
    async def story(node: Node, store: MemoryStore) -> None:
        many = [f"aaaaaaaaaaaa_{number}_80" for number in range(10, 17)]
        await store.publish([new(identity) for identity in many])
        await store.publish([new(A, to="tag:gpu", rank=3, due=store.now + 60)])
        await held(store, new(B, to="beta"))
        assert await pages(node, "state=waiting&limit=3") == [[WAITS, *many[:2]], many[2:5], many[5:]]
        assert await pages(node, "limit=100") == [[WAITS, *many, A, B]]
        assert [row for page in await pages(node, "limit=1") for row in page] == [WAITS, *many, A, B]
        rows, _ = await listed(node, "state=later,held")
        assert [(row["id"], row["state"], row["where"], row["destination"]) for row in rows] == [
            (A, "later", "store", "tag:gpu"), (B, "held", "store", "beta"),
        ]  # fmt: skip
        assert (rows[0]["due_at"], rows[0]["priority"], rows[0]["paused"]) == (store.now + 60, 3, False)

    tell(tmp_path, story)


def test_dead_tasks_of_the_store_are_listed_and_chosen_as_those_on_the_disk(tmp_path: Path) -> None:
    async def story(node: Node, store: MemoryStore) -> None:
        store.now = 1000.0
        await dead(store, A, "ValueError: no such customer\n  in detail")
        store.advance(500)
        await dead(store, B, "KeyError: 'to'")
        (first, second), _ = await listed(node, "state=dead&since_at=900&until_at=2000")
        assert (first["id"], first["reason"], first["changed_at"]) == (A, "ValueError: no such customer", 1000.0)
        assert second["id"] == B
        for chosen, found in (("error=KeyError", [B]), ("reason=customer", [A]), ("since_at=1400&until_at=2000", [B])):
            rows, _ = await listed(node, f"state=dead&{chosen}")
            assert [row["id"] for row in rows] == found

    tell(tmp_path, story)


def test_those_that_wait_for_another_attempt_are_listed_apart(tmp_path: Path) -> None:
    async def story(node: Node, store: MemoryStore) -> None:
        await store.publish([new(A, due=store.now + 60), new(B, due=store.now + 60, attempts=2)])
        rows, _ = await listed(node, "state=retrying")
        assert [(row["id"], row["attempts"]) for row in rows] == [(B, 2)]

    tell(tmp_path, story)


def test_a_page_asks_the_store_a_few_times_however_many_tasks_are_not_wanted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store_pages, "AT_ONCE", 2)
    monkeypatch.setattr(store_pages, "MOST_LOOKS", 3)

    async def story(node: Node, store: MemoryStore) -> None:
        for number in range(20):
            await dead(store, f"aaaaaaaaaaaa_{number}_80", "KeyError: 'to'" if number == 15 else "ValueError: odd")
        found = await pages(node, "state=dead&error=KeyError")
        assert found == [[], [], ["aaaaaaaaaaaa_15_80"], []]

    tell(tmp_path, story)


def test_while_the_store_is_away_a_list_has_what_is_on_the_disk_and_says_what_is_missing(tmp_path: Path) -> None:
    async def story(node: Node, store: MemoryStore) -> None:
        store.is_away = True
        status, page = await node.ask("GET", "/tasks")
        assert (status, [row["id"] for row in page["items"]], page["next"]) == (200, [WAITS], None)
        assert page["missing"].startswith("the tasks of the common store are missing here: the common store is away (")

    tell(tmp_path, story)


def test_what_waits_in_the_store_is_counted_by_its_age_with_what_waits_on_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:  # fmt: skip
    async def story(node: Node, store: MemoryStore) -> None:
        block = encode_variables([(names.FUNCTION, b"shop:pay")])
        store.now = time.time() - 5 * 60
        await store.publish([NewTask(StoredTask(f"{A}{number}", block, to="gamma")) for number in range(3)])
        store.now = time.time()
        await store.publish([NewTask(StoredTask(B, block, due=store.now + 60))])
        await held(store, new("cccccccccccc_1_80"))

        async def counted(by: str) -> tuple[dict[str, tuple[int, int]], Any]:
            status, found = await node.ask("GET", f"/ages?by={by}")
            name = "function" if by == "function" else "destination"
            assert status == 200
            return {row[name]: (row["tasks"], row["later"]) for row in found["items"]}, found

        groups, found = await counted("function")
        assert groups == {"": (1, 0), "shop:pay": (4, 1)}
        (row,) = (row for row in found["items"] if row["function"] == "shop:pay")
        assert row["ages"][:4] == [1, 0, 0, 3]
        assert (found["total"]["tasks"], found["more_in_store"], found["missing"]) == (5, False, "")
        assert (await counted("node"))[0] == {None: (1, 0), "gamma": (3, 0), "any": (1, 1)}
        monkeypatch.setattr(in_store, "MOST_READ", 2)
        monkeypatch.setattr(in_store, "AT_ONCE", 2)
        groups, found = await counted("function")
        assert (groups["shop:pay"], found["more_in_store"]) == ((3, 1), True)
        store.is_away = True
        groups, found = await counted("function")
        assert groups == {"": (1, 0)}
        assert found["missing"].startswith("not all tasks of the common store are counted: ")

    tell(tmp_path, story)


def test_a_cursor_that_was_made_up_is_refused_and_never_reaches_the_store(tmp_path: Path) -> None:
    async def story(node: Node, store: MemoryStore) -> None:
        await store.publish([new(A), new(B)])
        _, cursor = await listed(node, "state=waiting&limit=1")
        assert cursor
        made_up = cursor[:8] + ("A" if cursor[8] != "A" else "B") + cursor[9:]
        for wrong in (made_up, "store.", "store.e30.0", f"{cursor}0"):
            status, problem = await node.ask("GET", f"/tasks?state=waiting&cursor={wrong}")
            assert status == 400, problem
            assert "it must be `next` of a page before" in problem["detail"]

    tell(tmp_path, story)


async def kinds(node: Node, query: str = "") -> dict[tuple[str, str], int]:
    """How many dead tasks there are, by function and error."""
    status, counted = await node.ask("GET", f"/dead?{query}")
    assert (status, counted["missing"], counted["more_in_store"]) == (200, "", False)
    return {(row["function"], row["error"]): row["tasks"] for row in counted["items"]}


async def several_dead(store: MemoryStore) -> list[str]:
    """Five tasks die, every other one of a KeyError."""
    identities = [f"aaaaaaaaaaaa_{number}_80" for number in range(5)]
    for number, identity in enumerate(identities):
        await dead(store, identity, "ValueError: odd" if number % 2 else "KeyError: 'to'")
    return identities


def test_dead_tasks_are_counted_by_kind_with_those_on_the_disk(tmp_path: Path) -> None:
    async def story(node: Node, store: MemoryStore) -> None:
        await several_dead(store)
        assert await kinds(node) == {("", ""): 1, ("", "KeyError"): 3, ("", "ValueError"): 2}
        assert await kinds(node, "error=KeyError") == {("", "KeyError"): 3}
        await node.ask("POST", "/dead/retry?error=KeyError")
        assert await kinds(node) == {("", ""): 1, ("", "ValueError"): 2}

    tell(tmp_path, story)


def test_the_kinds_are_read_again_after_a_moment_and_of_very_many_only_the_first(tmp_path: Path) -> None:
    async def main() -> None:
        store, now = MemoryStore(), 0.0
        joined = Joined(store)
        await joined.open()
        found = stored_dead.StoredDead(joined.tasks, lambda: now)
        assert await found.look() == stored_dead.StoredKinds([])
        await several_dead(store)
        assert (await found.look()).known == []
        now += stored_dead.LOOK_SECONDS
        assert len((await found.look()).known) == 5
        await dead(store, "aaaaaaaaaaaa_9_80")
        now += stored_dead.LOOK_SECONDS
        assert len(found.last().known) == 5, "the next look has only begun"
        await asyncio.sleep(0)
        assert len((await found.look()).known) == 6
        store.is_away = True
        assert len((await found.look()).known) == 6
        now += stored_dead.LOOK_SECONDS
        assert "the common store is away" in (await found.look()).missing
        await joined.contact.close()

    asyncio.run(main())


@pytest.mark.parametrize(("method", "path", "done"), [("POST", "/dead/retry", "ready"), ("DELETE", "/dead", "removed")])
def test_many_dead_tasks_are_acted_on_part_by_part_first_on_the_disk_then_in_the_store(
    tmp_path: Path, method: str, path: str, done: str
) -> None:
    async def story(node: Node, store: MemoryStore) -> None:
        await several_dead(store)
        parts, cursor = [], ""
        while True:
            status, answer = await node.ask(method, f"{path}?limit=2{cursor}")
            assert (status, answer["left"], answer["missing"]) == (200, 0, "")
            parts.append(answer[done])
            if answer["next"] is None:
                break
            cursor = f"&cursor={answer['next']}"
        assert parts == [2, 2, 2]
        tallies = await store.count()
        assert (tallies[TaskState.DEAD].number, tallies[TaskState.READY].number) == (0, 5 if done == "ready" else 0)

    tell(tmp_path, story)


def test_chosen_dead_tasks_are_removed_and_all_others_stay(tmp_path: Path) -> None:
    async def story(node: Node, store: MemoryStore) -> None:
        first, second, *others = await several_dead(store)
        status, answer = await node.ask("DELETE", "/dead?reason=odd")
        assert (status, answer["removed"]) == (200, 2)
        assert [row["id"] for row in (await listed(node, "state=dead"))[0]] == [DEAD, first, others[0], others[2]]
        assert await state(store, second) == ("ended", "removed")

    tell(tmp_path, story)


def test_while_the_store_is_away_what_is_on_the_disk_is_retried_and_the_answer_says_what_was_not_reached(tmp_path: Path) -> None:
    async def story(node: Node, store: MemoryStore) -> None:
        store.is_away = True
        status, answer = await node.ask("POST", "/dead/retry")
        assert (status, answer["ready"], answer["next"]) == (200, 1, None)
        assert answer["missing"].startswith("not all dead tasks of the common store were reached: ")
        status, counted = await node.ask("GET", "/dead")
        assert (status, counted["tasks"]) == (200, 0)
        assert counted["missing"].startswith("the dead tasks of the common store are missing here: ")

    tell(tmp_path, story)


def test_a_dead_task_that_waits_again_by_then_is_not_removed(tmp_path: Path) -> None:
    class Quick(MemoryStore):
        async def list(self, *asked: Any) -> Any:
            page = await super().list(*asked)
            await self.revive([A])  # another operator was faster
            return page

    async def story(node: Node, store: MemoryStore) -> None:
        await dead(store)
        assert (await node.ask("DELETE", "/dead"))[1]["removed"] == 1, "the one on the disk"
        assert await state(store) == ("ready", "")

    tell(tmp_path, story, Quick())
