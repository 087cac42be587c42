"""The node that may run already, the addresses, the kernel, the libraries."""

import contextlib
import fcntl
import os
import resource
import socket
import sys
import time
from collections import Counter
from collections.abc import Iterator
from importlib import metadata
from typing import Any

from spoolnode.client.control import ControlError, NotRunning, ask
from spoolnode.cluster.lookup import is_loopback
from spoolnode.doctor.finding import FAIL, OK, WARN, Finding
from spoolnode.node.badconfig import BadConfig
from spoolnode.node.config import Config, parse_address
from spoolnode.node.disk.layout import Layout
from spoolnode.node.figures import CLOCK_SECONDS

FEW_WATCHES = 8192
FEW_DESCRIPTORS = 4096
MOST_PEERS = 20
"""Peers that are explained."""
LIBRARIES = ("msgpack", "click", "rich", "aiohttp", "inotify_simple", "structlog", "prometheus_client", "zeroconf")


def node(layout: Layout) -> Finding:
    """Whether a node runs on the directory."""
    check = "node"
    try:
        status = ask(layout.root, "GET", "/node", 5.0)
        return Finding(
            check, OK, f"{status['name']} ({status['id']}) runs here, pid {status['pid']}, on {', '.join(status['listen'])}"
        )
    except NotRunning:
        holder = lock_holder(layout)
    except ControlError as error:
        holder = lock_holder(layout)
        if not holder:
            return Finding(check, WARN, str(error))
    if holder:
        return Finding(
            check, FAIL, f"process {holder} holds the spool, but does not answer on {layout.control}: is it starting, or stuck?"
        )
    if os.path.lexists(layout.control):
        return Finding(
            check, OK, "none runs here; the last one was killed and left its control socket, which the next one replaces"
        )
    return Finding(check, OK, "none runs here")


def application(layout: Layout) -> Iterator[Finding]:
    """Whether the node that runs on the directory has workers for its application."""
    with contextlib.suppress(NotRunning, ControlError):
        status = ask(layout.root, "GET", "/node", 5.0)
        if status["app"] and not status["workers"]:
            yield Finding("application", FAIL, f"{status['app']}: no worker is up: see the log")
        elif status["app"]:
            yield Finding("application", OK, f"{status['app']}, workers up: {status['workers']}")


def peers(layout: Layout) -> Iterator[Finding]:
    """The states of the peers of the node that runs on the directory, and what to do about those that are not up."""
    with contextlib.suppress(NotRunning, ControlError):
        rows = ask(layout.root, "GET", "/nodes", 5.0)["items"]
        yield from of_peers(rows)
        yield from of_reach(rows)


def of_peers(rows: list[dict[str, Any]]) -> Iterator[Finding]:
    """The same, from the items of `/nodes`."""
    counts = Counter(row["state"] for row in rows)
    text = ", ".join(f"{count} {state}" for state, count in counts.items()) or "none is known"
    yield Finding("peers", WARN if counts.keys() - {"up", "leaving"} else OK, text)
    for row in rows[:MOST_PEERS]:
        check = f"peer {row['name'] or row['id'] or row['address']}"
        if remedy := _REMEDIES.get(row["state"]):
            yield Finding(check, WARN, f"{row['state']} at {row['address']}: {row['reason'] or 'no answer'}: {remedy}")
        ahead = row["clock_ahead_seconds"] or 0.0
        if abs(ahead) > CLOCK_SECONDS:
            text = (
                f"its clock is {abs(ahead):.1f} s {'ahead of' if ahead > 0 else 'behind'} this node's, and times of tasks are off"
            )
            yield Finding(check, WARN, f"{text} by as much: let NTP set both (`timedatectl set-ntp true`)")


def of_reach(rows: list[dict[str, Any]]) -> Iterator[Finding]:
    """Whether the peers that answer this node reach it, too, as they say. From the items of `/nodes`."""
    check, answering = "reached", [row for row in rows if row["state"] in _ANSWERS]
    told = [(row, reach) for row in answering if (reach := row["reaches_us"]) and reach["state"] != "unknown"]
    well = Counter(reach["address"] for _, reach in told if reach["state"] in _ANSWERS)
    if well:
        yield Finding(check, OK, ", ".join(f"peers that reach {address}: {count}" for address, count in well.items()))
    for row, reach in [(row, reach) for row, reach in told if reach["state"] not in _ANSWERS][:MOST_PEERS]:
        name = row["name"] or row["address"]
        text = f"this node reaches {name}, but {name} does not reach it: this node is {reach['state']} there"
        where = f", at {reach['address']}" if reach["address"] else ""
        yield Finding(check, WARN, f"{text}{where}: {reach['reason'] or 'no answer'}: {_LET_IN}")
    if missing := len(answering) - len(told):
        text = f"not told by {missing} of {len(answering)} peers that answer"
        yield Finding(check, OK, f"{text}: look again in a few seconds; older versions never tell")


_ANSWERS = ("up", "leaving")
_LET_IN = "does a firewall here let it in? --advertise names another address to others; its `spoolnode peers` shows what it sees"
_REMEDIES = {
    "down": "is it running, does it listen there (its `spoolnode doctor` says so), and does a firewall let this machine in? If "
    "it will never come back: `spoolnode forget`",
    "suspect": "it did not answer once or twice; `spoolnode ping ADDRESS` asks it now",
    "rejected": "if its claim is right, `spoolnode accept NAME ID` on this machine; if it is outside of --allow, add its network",
    "unknown": "it has not been reached yet; look again in a few seconds",
}


def reached(config: Config, layout: Layout) -> Iterator[Finding]:
    """Whether other machines find the addresses of the node that runs on the directory, or of one with this configuration."""
    if config.discover == ["none"] or not config.discover:
        return
    check = "announced"
    if config.advertise:
        host, _, port = config.advertise.rpartition(":")
        try:
            socket.create_connection((host.strip("[]"), int(port)), 2).close()
        except OSError as error:
            text = f"others are told {config.advertise}, where nothing answers from here: {error.strerror or error}"
            yield Finding(check, WARN, f"{text}. Start the node; if it runs, mend --advertise, or the way to it (NAT, firewall)")
        else:
            yield Finding(check, OK, f"others are told {config.advertise}, and it answers")
        return
    listening = config.listen
    with contextlib.suppress(NotRunning, ControlError):
        listening = ask(layout.root, "GET", "/node", 5.0)["listen"]
    addresses = ", ".join(listening)
    places = [place for address in listening if isinstance(place := parse_address(address), tuple)]
    if all(is_loopback(f"{host}:{port}") for host, port in places):
        text = f"no other machine reaches {addresses}: fine for one machine; otherwise add -s ADDRESS:3031 and --allow NETWORK"
        yield Finding(check, OK, text)
    else:
        yield Finding(check, OK, f"others are told {addresses}")


def certificate(config: Config) -> Iterator[Finding]:
    """Whether peers would take this node's certificate, and for how long."""
    if not config.tls_cert:
        return
    from spoolnode.cluster.trust import Trust

    try:
        trust = Trust(config.tls_cert, config.tls_key, config.tls_ca, config.name, config.tls_crl)
    except BadConfig as error:
        yield Finding("certificate", FAIL, str(error))
        return
    now = time.time()
    end = time.strftime("%Y-%m-%d", time.localtime(now + trust.expires_in(now)))
    days = f"{config.tls_cert} is of {config.name}, until {end}, for another {int(trust.expires_in(now) // 86400)} days"
    warning = trust.expiry_warning(now)
    yield Finding("certificate", WARN if warning else OK, warning or days)


def lock_holder(layout: Layout) -> str:
    """The process that holds the directory; empty if none does."""
    try:
        descriptor = os.open(layout.lock, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return ""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return os.pread(descriptor, 20, 0).decode("ascii", "replace").strip() or "unknown"
    else:
        return ""
    finally:
        os.close(descriptor)


def listen(address: str, layout: Layout) -> Finding:
    """Whether a node can listen on the address, or this directory's node does already."""
    check = f"address {address}"
    others = ""
    with contextlib.suppress(NotRunning, ControlError):
        listening = ask(layout.root, "GET", "/node", 5.0)["listen"]
        if address in listening:
            return Finding(check, OK, "the node that runs here listens on it")
        others = ", ".join(listening)
    try:
        parsed = parse_address(address)
    except BadConfig as error:
        return Finding(check, FAIL, str(error))
    found = _unix_free(check, parsed) if isinstance(parsed, str) else _tcp_free(check, parsed)
    if others and found.state == OK:
        return Finding(check, WARN, f"nothing listens on it: the node that runs here is on {others}; clients need SPOOLNODE_VIA")
    return found


def _unix_free(check: str, path: str) -> Finding:
    if not os.path.lexists(path):
        parent = os.path.dirname(os.path.abspath(path))
        if os.access(parent, os.W_OK | os.X_OK):
            return Finding(check, OK, "free")
        return Finding(check, FAIL, f"{parent} is not writable for this user")
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.settimeout(2)
            probe.connect(path)
        except ConnectionRefusedError:
            return Finding(check, OK, "a socket without a listener, left by who was killed; a node replaces it")
        except OSError as error:
            return Finding(check, FAIL, f"it exists and is not a socket that a node could replace: {error.strerror}")
    return Finding(check, FAIL, "another program listens on it")


def _tcp_free(check: str, place: tuple[str, int]) -> Finding:
    try:
        for family, kind, _, _, where in socket.getaddrinfo(*place, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE):
            with socket.socket(family, kind) as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                if family == socket.AF_INET6:
                    probe.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
                probe.bind(where)
                probe.listen(1)
    except OSError as error:
        return Finding(check, FAIL, f"a node cannot listen on it: {error.strerror or error}")
    return Finding(check, OK, "free")


def inotify() -> Finding:
    """Whether the kernel lets us watch the directory."""
    limits = {}
    for name in ("max_user_watches", "max_user_instances"):
        try:
            with open(f"/proc/sys/fs/inotify/{name}", encoding="ascii") as file:
                limits[name] = int(file.read())
        except (OSError, ValueError):
            return Finding("inotify", WARN, "its limits cannot be read; dropped files are noticed by the slow scan at the latest")
    text = f"{limits['max_user_watches']} watches, {limits['max_user_instances']} instances for each user"
    if limits["max_user_watches"] < FEW_WATCHES or limits["max_user_instances"] < 16:
        return Finding(
            "inotify", WARN, f"{text}: few; raise fs.inotify.* with sysctl, or dropped files are noticed by the slow scan only"
        )
    return Finding("inotify", OK, text)


def descriptors() -> Finding:
    """Whether a node may open enough files and connections."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)  # a node raises its own limit to this one
    text = f"{'any number' if most == resource.RLIM_INFINITY else most} for each process"
    if most != resource.RLIM_INFINITY and most < FEW_DESCRIPTORS:
        return Finding("descriptors", WARN, f"{text}: few for many clients and peers; raise LimitNOFILE= (systemd) or ulimit -n")
    return Finding("descriptors", OK, text)


def versions() -> Finding:
    """The versions of spoolnode, Python and the libraries."""
    from spoolnode import __version__

    found, missing = [], []
    for name in LIBRARIES:
        try:
            found.append(f"{name} {metadata.version(name)}")
        except metadata.PackageNotFoundError:
            missing.append(name)
    found.append(_event_loop())
    text = f"spoolnode {__version__}, Python {sys.version.split()[0]}, {', '.join(found)}"
    if missing:
        return Finding("versions", FAIL, f"{text}; not installed: {', '.join(missing)}")
    return Finding("versions", OK, text)


def _event_loop() -> str:
    """The event loop that nodes have here."""
    try:
        import uvloop  # noqa: F401  # as `join` does: one that is installed may not load
    except ImportError:
        return "asyncio's own event loop (slower than uvloop)"
    return f"uvloop {metadata.version('uvloop')}"
