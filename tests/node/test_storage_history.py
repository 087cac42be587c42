"""The promises of the spool, on a disk that fails or loses power at every call it is asked for. See `life`."""

import asyncio
import errno

import pytest
from life import Life, power_back

from spoolnode.node.disk.fakes import PowerCut
from spoolnode.node.spool import group_commit

STEPS = 130
SEEDS = [1, 2, 3]
CUTS = 2
"""Random contents of a disk after a power cut that are tried."""


@pytest.fixture(autouse=True)
def _small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that batches fill, close, settle and go within a short life."""
    monkeypatch.setattr(group_commit, "BATCH_SIZE", 16 << 10)


async def lived(life: Life, steps: int = STEPS) -> Life:
    """That life, from its start to its rest (or to its power cut)."""
    life.boot()
    await life.live(steps)
    if not life.disk.is_off:
        await life.rest()
    return life


async def goes_on(life: Life) -> None:
    """The node takes a task now, and holds on to nothing but the open batch and the spare one."""
    fate = life.add_one()
    life.close_batch()
    await life.rest()
    assert fate.acknowledged, "the disk is well again, and the node takes no tasks"
    assert life.disk.open_files <= 2


async def accounts_balance(life: Life) -> None:
    """In memory, and again after kill -9: all writes are there, the memory of the process is not."""
    life.check_accounts(await life.waiting())
    life.disk.kill()
    life.boot()
    life.check_accounts(await life.waiting())


def calls_of(seed: int) -> range:
    """Every call to the disk in that life, the first start apart."""

    async def count() -> int:
        life = Life(seed)
        life.boot()
        before = life.disk.calls
        await life.live(STEPS)
        await life.rest()
        return life.disk.calls - before

    return range(1, asyncio.run(count()) + 1)


@pytest.mark.parametrize("seed", range(40))
def test_on_a_good_disk_every_task_has_one_fate_also_after_kill_9(seed: int) -> None:
    async def story() -> None:
        life = await lived(Life(seed), 400)
        await goes_on(life)
        await accounts_balance(life)

    asyncio.run(story())


@pytest.mark.parametrize("error", [errno.EIO, errno.ENOSPC], ids=errno.errorcode.get)
@pytest.mark.parametrize("seed", SEEDS)
def test_whichever_call_fails_nothing_is_lost_nothing_runs_twice_and_the_node_goes_on(seed: int, error: int) -> None:
    async def story(call: int) -> None:
        life = Life(seed)
        life.boot()
        life.disk.fail_at(call, error)
        await life.live(STEPS)
        await life.rest()
        await goes_on(life)
        await accounts_balance(life)

    for call in calls_of(seed):
        try:
            asyncio.run(story(call))
        except Exception as problem:
            problem.add_note(f"seed {seed}, {errno.errorcode[error]} at call {call}")
            raise


@pytest.mark.parametrize("seed", SEEDS)
def test_whenever_the_power_goes_what_was_acknowledged_is_there_once(seed: int) -> None:
    async def story(call: int) -> None:
        life = Life(seed)
        life.boot()
        life.disk.cut_power_at(call)
        await life.live(STEPS)
        for cut in range(CUTS if life.disk.is_off else 0):
            later = power_back(life, cut)
            later.boot()
            later.check_after_power_cut(await later.waiting())

    for call in calls_of(seed):
        try:
            asyncio.run(story(call))
        except Exception as problem:
            problem.add_note(f"seed {seed}, power cut at call {call}")
            raise


@pytest.mark.parametrize("seed", SEEDS)
def test_a_power_cut_during_the_recovery_from_a_power_cut_loses_nothing(seed: int) -> None:
    async def story() -> None:
        life = Life(seed)
        life.boot()
        life.disk.cut_power_at(len(calls_of_seed) * 3 // 4)
        await life.live(STEPS)
        for call in range(1, 60):
            second = power_back(life, call)
            second.disk.cut_power_at(call)
            try:
                second.boot()
                await second.rest()
            except PowerCut:
                pass
            third = power_back(second, call)
            third.boot()
            third.check_after_power_cut(await third.waiting())

    calls_of_seed = calls_of(seed)
    asyncio.run(story())


@pytest.mark.parametrize("seed", range(3))
def test_a_disk_that_is_full_for_a_while_refuses_and_then_takes_tasks_again(seed: int) -> None:
    async def story() -> None:
        life = Life(seed)
        life.boot()
        for _ in range(4):
            life.disk.space = 40 << 10
            await life.live(60)
            life.disk.space = 0
            await life.live(60)
        await life.rest()
        assert any(fate.refusal for fate in life.fates.values())
        life.disk.space = 1 << 40
        await goes_on(life)
        await accounts_balance(life)

    asyncio.run(story())


@pytest.mark.parametrize("seed", range(10))
def test_without_fsync_everything_but_the_power_cut_promise_holds(seed: int) -> None:
    async def story() -> None:
        life = await lived(Life(seed, sync=False), 300)
        await goes_on(life)
        await accounts_balance(life)

    asyncio.run(story())


@pytest.mark.parametrize("seed", range(5))
def test_without_fsync_a_power_cut_may_lose_tasks_but_the_node_starts_and_runs_nothing_twice(seed: int) -> None:
    async def story() -> None:
        life = Life(seed, sync=False)
        life.boot()
        life.disk.cut_power_at(150)
        await life.live(STEPS)
        later = power_back(life, seed)
        later.boot()
        await later.rest()
        assert later.add_one()
        later.close_batch()
        await later.rest()
        assert list(later.fates.values())[-1].acknowledged

    asyncio.run(story())
