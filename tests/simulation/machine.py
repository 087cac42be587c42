"""A simulated machine: a disk, a clock, an address, and at most one process, which may die at any step."""

import zlib
from collections.abc import Callable
from contextvars import Context
from random import Random

from .disk import Pace, SimDisk
from .loop import EPOCH, OWNER, Gone, SimHandle, SimLoop
from .network import End, Network


class Process:
    """Owns callbacks and connections; once `dead`, none of its callbacks runs."""

    def __init__(self, machine: "Machine") -> None:
        self.machine = machine
        self.dead = False
        self.frozen: list[SimHandle] | None = None
        """The callbacks that wait while it is stopped; None: it runs."""
        self.name = f"{machine.name} {machine.loop.next_serial()}"
        self.ends: dict[End, None] = {}
        self.context = Context()
        self.context.run(OWNER.set, self)


class Machine:
    """One machine."""

    def __init__(self, loop: SimLoop, network: Network, name: str, host: str, seed: int) -> None:
        self.loop = loop
        self.network = network
        self.name = name
        self.host = host
        self.random = Random(seed ^ zlib.crc32(name.encode()))
        self.clock = 0.0
        """How far its wall clock is ahead, in seconds."""
        self.furthest = 0.0
        """How far it has ever been."""
        self.is_on = True
        self.boots = 1
        """How often it was switched on."""
        self.process: Process | None = None
        self.kernel: list[End] = []
        """The connections that its kernel has known since it was switched on."""
        self.disk = SimDisk(self.random.getrandbits(32), self.wall)
        self.pace = Pace(self.random)
        self.main: Callable[[Process], None] = lambda process: None
        """The code that a process runs when it starts."""
        self.died: Callable[[str], None] = lambda how: None
        """Hears that the process has died: `killed`, `stopped` or `power cut`."""
        network.attach(host, self)

    def wall(self) -> float:
        """The time on its clock."""
        return EPOCH + self.loop.now + self.clock

    @property
    def is_running(self) -> bool:
        """Whether its process lives."""
        return self.process is not None and not self.process.dead

    def boot(self) -> None:
        """Switches it on, if it is off, and starts the process."""
        if self.is_running:
            return
        self.process = process = Process(self)
        self.disk.owner = process
        if not self.is_on:
            self.is_on = True
            self.boots += 1
            self.network.power_is_back(self.host)
        self.loop.call_soon(self.main, process, context=process.context)

    def kill(self) -> None:
        """kill -9."""
        if self.is_running:
            self._die()
            for end in self.process.ends:  # type: ignore[union-attr] # it is up
                end.process_died()
            self.disk.kill()
            self.died("killed")

    def pause(self) -> None:
        """SIGSTOP of all that runs here: time goes on, and it does not notice."""
        if self.is_running and self.process.frozen is None:  # type: ignore[union-attr] # it is up
            self.process.frozen = []  # type: ignore[union-attr] # it is up

    def go_on(self) -> None:
        """SIGCONT."""
        if self.is_running:
            self.loop.thaw(self.process)  # type: ignore[arg-type] # it is up

    @property
    def is_paused(self) -> bool:
        """Whether it is stopped by SIGSTOP."""
        return self.is_running and self.process.frozen is not None  # type: ignore[union-attr] # it is up

    def step_clock(self, seconds: float) -> None:
        """The wall clock jumps."""
        self.clock += seconds
        self.furthest = max(self.furthest, self.clock)

    def exit(self) -> None:
        """The process has come to its end."""
        if self.is_running:
            self._die()
            for end in self.process.ends:  # type: ignore[union-attr] # it is up
                end.process_died()
            self.disk.kill()
            self.died("stopped")

    def move(self, host: str) -> None:
        """It has another address from its next process on; nothing answers at the old one."""
        self.network.detach(self.host)
        self.host = host
        self.network.attach(host, self)

    def cut_power(self) -> None:
        """The machine is off, and of its disk only what was safe, and a part of the rest, is there."""
        if not self.is_on:
            return
        self._die()
        self.is_on = False
        for end in self.kernel:
            end.power_cut()
        self.kernel.clear()
        self.disk.crash()
        self.died("power cut")

    def kill_silently(self) -> None:
        """The end of the world: it stops, and no one hears of it."""
        self._die()

    def _die(self) -> None:
        if self.process is not None:
            self.process.dead = True
            self.loop.dead.add(self.process.name)

    def doom(self, call: int, how: Callable[[], None]) -> None:
        """The same at the `call`-th call to the disk from now, in the midst of whatever makes it."""

        def now() -> None:
            how()
            raise Gone

        self.disk.doom_at(call, now)
