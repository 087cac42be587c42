"""Three nodes: they find each other, run each other's tasks, and lose none when one is killed."""

import json
import signal

import spoolnode
from spoolnode.demo import sample
from spoolnode.demo.stage import (
    BrokenPromise,
    DemoNode,
    all_counted,
    counted,
    has_run,
    held,
    narrate,
    output,
    say_command,
    shows,
    step,
    wait_for,
)

FOR_BETA = 300
"""Tasks sent to a node that is killed meanwhile."""
ENDED_ON_BETA = 5
"""How many of them have ended by then."""


def show_three(alpha: DemoNode, beta: DemoNode, gamma: DemoNode) -> None:
    """Shows a cluster of three nodes."""
    step("Three nodes start, and find each other (multicast DNS on this machine; no address was given)")
    for node in (alpha, beta, gamma):
        node.start()
    for node in (alpha, beta, gamma):
        wait_for(lambda node=node: len(node.said("peer_up")) >= 2, f"{node.name} knows the two others")  # type: ignore[misc] # bound now
    _peers(alpha)
    _to_another(alpha, beta)
    _to_all(alpha, beta, gamma)
    _to_a_dead_one(alpha, beta)
    step("The nodes stop")
    for node in (alpha, beta, gamma):
        if node.end(signal.SIGTERM) != 0:
            raise BrokenPromise(f"{node.name} did not stop with status 0")
    narrate("each says goodbye to the others first")


def _peers(alpha: DemoNode) -> None:
    line = ["peers", "--spool", "spool"]
    say_command(line)
    for text in output(line, alpha).splitlines():
        narrate(f"  {text}")


def _to_another(alpha: DemoNode, beta: DemoNode) -> None:
    step("A task sent on alpha runs on beta")
    line = ["send", "name=Eve", "--node", "beta", "--via", alpha.via]
    say_command(line)
    narrate(f"-> {output(line, alpha)}: on alpha's disk now; it leaves it when it is on beta's")
    shows(beta, "hello Eve")
    if has_run(alpha, "hello Eve"):
        raise BrokenPromise("it ran on alpha too")


def _to_all(*nodes: DemoNode) -> None:
    step("A task for all runs on each")
    narrate('send_to_spooler({"name": "everybody"}, node="all")')
    spoolnode.send_to_spooler({"name": "everybody"}, node="all", via=nodes[0].via)
    for node in nodes:
        wait_for(lambda node=node: has_run(node, "hello everybody"), f"it runs on {node.name}")  # type: ignore[misc] # bound now
    narrate("the application ran it on alpha, on beta and on gamma")


def _to_a_dead_one(alpha: DemoNode, beta: DemoNode) -> None:
    step(f"{FOR_BETA} tasks are sent to beta, through alpha; beta is killed with kill -9 in the middle")
    send = sample.count.options(via=alpha.via, node="beta").spool
    with held(beta, ENDED_ON_BETA):
        for number in range(FOR_BETA // 2):
            send(number)
        wait_for(lambda: len(counted(beta)) > ENDED_ON_BETA, "some have run")
        beta.end(signal.SIGKILL)
    for number in range(FOR_BETA // 2, FOR_BETA):
        send(number)
    waiting = wait_for(lambda: _waiting_for_beta(alpha), "tasks wait on alpha")
    narrate(f"all are acknowledged, {ENDED_ON_BETA} have run, one was running, {waiting} wait on alpha's disk. Beta comes back:")
    beta.start()
    all_counted(beta, FOR_BETA)
    wait_for(lambda: not _waiting_for_beta(alpha), "nothing waits on alpha")


def _waiting_for_beta(alpha: DemoNode) -> int:
    """How many tasks for beta alpha holds on its disk."""
    status = json.loads(output(["status", "--spool", "spool", "--json"], alpha))
    return int(status["outbox"].get("beta", 0))
