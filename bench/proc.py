"""Processes in /proc: their children, the time and the memory that they have used."""

import os
from dataclasses import dataclass
from pathlib import Path

TICK = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Process:
    """A process, told from a later one with the same pid."""

    pid: int
    started: int


def _stat(pid: int) -> list[str]:
    """The fields of /proc/PID/stat from the third on: the name before may hold anything. Empty if it is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []


def tree(pid: int) -> list[Process]:
    """A process and all its descendants, the oldest first; without those that have ended."""
    children: dict[int, list[int]] = {}
    stats: dict[int, list[str]] = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit() and (stat := _stat(int(entry))) and stat[0] != "Z":
            stats[int(entry)] = stat
            children.setdefault(int(stat[1]), []).append(int(entry))
    found, queue = [], [pid]
    for current in queue:
        if current in stats:
            found.append(Process(current, int(stats[current][19])))
        queue += children.get(current, [])
    return found


def is_alive(process: Process) -> bool:
    """Whether it still runs: itself, not another process with its pid."""
    stat = _stat(process.pid)
    return bool(stat) and stat[0] != "Z" and int(stat[19]) == process.started


def cpu_seconds(pid: int) -> float:
    """User and system time of a process, all threads. The kernel counts in ns, but shows ticks of 10 ms."""
    stat = _stat(pid)
    return (int(stat[11]) + int(stat[12])) / TICK if stat else 0.0


def tree_cpu_seconds(pid: int) -> float:
    """The same with all descendants that live."""
    return sum(cpu_seconds(process.pid) for process in tree(pid))


def machine_seconds() -> tuple[float, float]:
    """The time that all processors have worked since boot, and the time that the hypervisor has kept from them."""
    with open("/proc/stat") as file:
        user, nice, system, _idle, _iowait, irq, softirq, steal = map(int, file.readline().split()[1:9])
    return (user + nice + system + irq + softirq) / TICK, steal / TICK


def own_seconds() -> float:
    """The time used by this process and by all that it has started and seen end, with their descendants."""
    used = os.times()
    return used.user + used.system + used.children_user + used.children_system


def peak_rss_mb(pid: int) -> float:
    """The most memory that a process has ever had resident."""
    return _field_mb(Path(f"/proc/{pid}/status"), "VmHWM:")


def rss_mb(pid: int) -> float:
    """The memory that a process has resident, without its descendants."""
    return _field_mb(Path(f"/proc/{pid}/status"), "VmRSS:")


def tree_memory_mb(pid: int) -> tuple[float, float]:
    """RSS and PSS of a process and its descendants: RSS counts shared pages in each, PSS divides them."""
    files = [Path(f"/proc/{process.pid}/smaps_rollup") for process in tree(pid)]
    return sum(_field_mb(file, "Rss:") for file in files), sum(_field_mb(file, "Pss:") for file in files)


def _field_mb(file: Path, name: str) -> float:
    for line in file.read_text().splitlines():
        if line.startswith(name):
            return int(line.split()[1]) / 1024
    raise LookupError(f"{file} has no {name}")
