"""Listening sockets that an init system has opened, and hands to each start of the node: sd_listen_fds(3).

They stay open between two starts, so connections wait in the kernel's queue meanwhile, and a restart refuses none.
"""

import os
import socket
from collections.abc import MutableMapping

from spoolnode.node.badconfig import BadConfig
from spoolnode.node.ingress.listener import tune

FIRST = 3
"""The first descriptor that is handed over."""
_FAMILIES = (socket.AF_INET, socket.AF_INET6, socket.AF_UNIX)


def take_sockets(environment: MutableMapping[str, str]) -> list[socket.socket]:
    """The sockets that were handed to this process. The variables that say so are removed: children get neither of them.

    Raises:
        BadConfig: one of them is not a listening stream socket of TCP or a unix path.
    """
    for_pid, count = environment.pop("LISTEN_PID", ""), environment.pop("LISTEN_FDS", "")
    called = environment.pop("LISTEN_FDNAMES", "").split(":")
    if for_pid != str(os.getpid()) or not count.isdecimal():
        return []
    return [_taken(FIRST + index, called[index] if index < len(called) else "unknown") for index in range(int(count))]


def _taken(descriptor: int, name: str) -> socket.socket:
    try:
        os.set_inheritable(descriptor, False)
        sock = socket.socket(fileno=descriptor)
        listens = sock.type == socket.SOCK_STREAM and sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
    except OSError as error:
        raise BadConfig(f"the descriptor {descriptor} ({name}) from LISTEN_FDS is not a socket: {error.strerror}") from error
    if not listens or sock.family not in _FAMILIES or (sock.family == socket.AF_UNIX and not _has_path(sock)):
        raise BadConfig(
            f"the socket {descriptor} ({name}) from LISTEN_FDS is of another kind; "
            "it must listen on a TCP port or on the path of a unix socket (ListenStream=)"
        )
    sock.setblocking(False)
    return tune(sock)


def _has_path(sock: socket.socket) -> bool:
    path = sock.getsockname()
    return isinstance(path, str) and os.path.isabs(path)
