"""The node that may run already, the addresses, the kernel, the libraries."""

import contextlib
import fcntl
import os
import socket
import sys
import time
from collections.abc import Iterator
from importlib import metadata

from spoolnode.client.control import ControlError, NotRunning, ask
from spoolnode.doctor.finding import FAIL, OK, WARN, Finding
from spoolnode.node.config import BadConfig, Config, parse_address
from spoolnode.node.disk.layout import Layout

FEW_WATCHES = 8192
LIBRARIES = ("msgpack", "uvloop", "click", "rich", "aiohttp", "inotify_simple", "structlog", "prometheus_client", "zeroconf")


def node(layout: Layout) -> Finding:
    """Whether a node runs on the directory."""
    check = "node"
    try:
        status = ask(layout.root, "GET", "/status", 5.0)
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
        status = ask(layout.root, "GET", "/status", 5.0)
        if status["app"] and not status["workers"]:
            yield Finding("application", FAIL, f"{status['app']}: no worker is up: see the log")
        elif status["app"]:
            yield Finding("application", OK, f"{status['app']}, workers up: {status['workers']}")


def peers(layout: Layout) -> Iterator[Finding]:
    """The states of the peers of the node that runs on the directory."""
    with contextlib.suppress(NotRunning, ControlError):
        states = ask(layout.root, "GET", "/status", 5.0).get("peers", {})
        text = ", ".join(f"{count} {state}" for state, count in states.items()) or "none is known"
        yield Finding(
            "peers", WARN if set(states) - {"up", "leaving"} else OK, f"{text}; see `spoolnode peers`" if states else text
        )


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
    days = f"{config.tls_cert} is valid for another {int(trust.expires_in(now) // 86400)} days"
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
        listening = ask(layout.root, "GET", "/status", 5.0)["listen"]
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


def versions() -> Finding:
    """The versions of spoolnode, Python and the libraries."""
    from spoolnode import __version__

    found, missing = [], []
    for name in LIBRARIES:
        try:
            found.append(f"{name} {metadata.version(name)}")
        except metadata.PackageNotFoundError:
            missing.append(name)
    text = f"spoolnode {__version__}, Python {sys.version.split()[0]}, {', '.join(found)}"
    if missing:
        return Finding("versions", FAIL, f"{text}; not installed: {', '.join(missing)}")
    return Finding("versions", OK, text)
