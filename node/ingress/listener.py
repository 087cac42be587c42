"""The sockets: accepts connections and moves bytes between them and conversations.

Most requests come alone on a connection, whole in the first read. They never become a transport: accept, read, and after the
commit write and close (half the CPU of a stream, with bench's `load plain` and 64 clients). Everything else (slow clients,
bodies, the extended dialect, web servers, mistakes) becomes a `Stream`. With a certificate, the port also takes TLS (`tls`).
"""

import asyncio
import contextlib
import errno
import os
import resource
import socket
import stat
from collections.abc import Collection
from typing import Any

from spoolnode.node.background import spawn
from spoolnode.node.badconfig import BadConfig
from spoolnode.node.config import Config, parse_address
from spoolnode.node.disk.disk import is_full
from spoolnode.node.ingress.caller import Caller
from spoolnode.node.ingress.connections import Connections
from spoolnode.node.ingress.conversation import Conversation
from spoolnode.node.ingress.room import Room
from spoolnode.node.ingress.services import Services
from spoolnode.node.ingress.stream import Stream
from spoolnode.node.ingress.tls import CLIENT_HELLO, NO_TLS, Certified, Handshakes, is_client_hello
from spoolnode.protocol.answer import REFUSED, STORED
from spoolnode.protocol.errors import Refused
from spoolnode.protocol.packet import PLAIN, SPOOL_REQUEST
from spoolnode.protocol.request import PLAIN_TERMS, Terms, read_terms

BACKLOG = 4096
ACCEPTS_A_TURN = 64
"""Connections taken before the loop looks at anything else."""
FIRST_READ = 8192
"""Bytes of the first read: most requests are smaller, and a larger buffer costs more than it saves."""
STRANGERS = 64
"""Connections at once from addresses that are not allowed: each hears the reason, and they do not keep others out."""


class LoneRequest:
    """A plain request that came whole. It waits for its commit on a bare socket."""

    __slots__ = ("_connections", "_descriptor", "_services")

    def __init__(self, descriptor: int, connections: Connections, services: Services) -> None:
        self._descriptor = descriptor
        self._connections = connections
        self._services = services

    def __repr__(self) -> str:
        return f"<lone request on descriptor {self._descriptor}>"

    def safe(self) -> None:
        """Answers that the task is safe. Runs in the commit thread."""
        self._answer(STORED)

    def stored(self, task_id: str, copies: int = 1) -> None:
        """Does nothing: `safe` has answered."""
        del task_id, copies
        self._connections.gone()

    def refused(self, refusal: Refused) -> None:
        """Answers that the task is refused after all."""
        self._services.count_refusal(refusal)
        self._services.report_rarely("refused", why=refusal.reason.name.lower(), reason=refusal.text)
        self._answer(REFUSED)
        self._connections.gone()

    def _answer(self, answer: bytes) -> None:
        try:  # noqa: SIM105  # `suppress` costs a microsecond, and this runs for every request
            os.write(self._descriptor, answer)  # four bytes always fit into the buffer of a fresh socket
        except OSError:
            pass  # the client is gone
        os.close(self._descriptor)


class Listener:
    """All listening sockets of a node."""

    def __init__(
        self, config: Config, services: Services, sockets: list[socket.socket], own_socket: str, trust: Certified | None = None,
        *, are_handed_over: bool = False,
    ) -> None:  # fmt: skip
        """
        Args:
            sockets: those of `bind_all`, or of `handed_over`.
            own_socket: the path of the node's own socket, for its owner and its workers.
        """
        self._config = config
        self.services = services
        room = Room(config.max_connections, resource.getrlimit(resource.RLIMIT_NOFILE)[0])
        services.admission.limit_uploads(room.uploads)
        self.connections = Connections(room, config.request_timeout)
        self._handshakes = (
            Handshakes(trust, services, config.request_timeout, self.connections.gone) if trust is not None else None
        )
        self._loop = asyncio.get_running_loop()
        self._allowed: dict[str, bool] = {}
        self._bound = sockets
        self._are_handed_over = are_handed_over
        self._sockets: list[tuple[socket.socket, str]] = []
        """The listening sockets, each with its path if it has one."""
        self._own = own_socket
        self._modes: dict[str, int | None] = {}
        """The paths of its unix sockets, with their modes."""
        self.addresses = [name_of(sock) for sock in sockets]
        """The addresses of its sockets, with the ports that the system chose for port 0."""

    def __repr__(self) -> str:
        return f"<listener on {', '.join(self.addresses) or 'nothing'}, {self.connections!r}>"

    def open(self) -> None:
        """Listens on all sockets but the node's own."""
        for sock in self._bound:
            if self._are_handed_over:
                self._take(sock, "")  # its path is not ours: others made it, and keep it
            else:
                self._listen(sock, mode_of(self._config))
        if os.path.lexists(self._own):
            os.unlink(self._own)  # the lock says that no other node is here
        if self.connections.room.limit < self._config.max_connections:
            self.services.report(
                "few_descriptors", max_connections=self._config.max_connections, limit=self.connections.room.limit
            )
        self.connections.sweep()

    def open_own(self) -> None:
        """Listens on the node's own socket, too.

        Raises:
            BadConfig: that fails, and not because the disk is full.
        """
        self._modes[self._own] = 0o600
        try:
            self.listen_again(())
        except BadConfig as error:
            if not is_full(error.__cause__):
                raise
            self.services.report("move_failed", file=self._own, reason=str(error), kept="made as soon as there is room")

    def _listen(self, sock: socket.socket, mode: int | None) -> None:
        unix = sock.getsockname() if sock.family == socket.AF_UNIX else ""
        if unix:
            self._modes[unix] = mode
        self._take(sock, unix)

    def _take(self, sock: socket.socket, unix: str) -> None:
        sock.listen(BACKLOG)
        self._sockets.append((sock, unix))
        self._wait(sock)

    def _wait(self, sock: socket.socket) -> None:
        # Told once: asking for the family takes four Python calls, and this would ask for each request.
        self._loop.add_reader(sock, self._accept, sock, sock.family == socket.AF_UNIX)

    @property
    def paths(self) -> list[str]:
        """The paths where its unix sockets are, or should be."""
        return [*self._modes]

    def listen_again(self, gone: Collection[str]) -> list[str]:
        """Makes the sockets at these paths again, and those not made yet. Returns their paths. Raises BadConfig."""
        made = []
        for path, mode in self._modes.items():
            old = [(sock, unix) for sock, unix in self._sockets if unix == path]
            if old and path not in gone:
                continue
            (new,) = bind(path, mode)
            for sock, unix in old:
                self._sockets.remove((sock, unix))
                self._loop.remove_reader(sock)
                sock.close()
            self._listen(new, mode)
            made.append(path)
        return made

    def close(self) -> None:
        """Stops listening. Connections that wait for an answer still get it. In a socket that was handed over, new ones wait."""
        for sock, unix in self._sockets:
            self._loop.remove_reader(sock)
            if not (self._are_handed_over and sock in self._bound):
                self._accept(sock, bool(unix))  # the kernel would reset the connections in its queue
            sock.close()
            if unix:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(unix)
        self._sockets.clear()
        self._modes.clear()  # none of them is made again

    async def finish(self) -> None:
        """Returns when the requests that have begun are whole, or a second has passed."""
        await self.connections.finish()

    async def close_streams(self) -> None:
        """Ends all connections. What has come on them is read before."""
        if self._handshakes is not None:
            self._handshakes.close()
        await self.connections.close()

    def _accept(self, listening: socket.socket, local: bool) -> None:
        # Bare descriptors: a socket object costs two system calls more, and its own making, for each request.
        for _ in range(ACCEPTS_A_TURN):
            try:
                descriptor, peer = listening._accept()  # type: ignore[attr-defined] # what `accept` wraps into an object
            except BlockingIOError:
                return
            except OSError as error:
                self._accept_failed(listening, error)
                return
            self.connections.came()
            if self._handshakes is not None and not local and not _begins_plainly(listening, descriptor):
                self._greet(self._handshakes, socket.socket(fileno=descriptor), peer[0])
                continue
            data = self._first_read(descriptor)
            if data is None:
                os.close(descriptor)
                self.connections.gone()
                continue
            allowed = local or self._is_allowed(peer[0])
            who = "unix" if local else peer[0]
            if not (allowed and self._take_alone(descriptor, data, local, who)):
                own = local and listening.getsockname() == self._own
                self._converse(socket.socket(fileno=descriptor), data, who, local, allowed, own=own)

    def _has_place(self, *, own: bool = False) -> bool:
        """Whether the connection that was just counted may stay. A slow one may have to give way."""
        if self.connections.has_place(own=own):
            return True
        if not self.connections.end_one():
            return False
        self.services.report_rarely("too_many_connections", limit=self.connections.room.limit, closed="one that dawdled")
        return True

    def _first_read(self, descriptor: int) -> bytes | None:
        """The bytes that have come already; None if the client is gone."""
        os.set_blocking(descriptor, False)
        try:
            return os.read(descriptor, FIRST_READ) or None
        except BlockingIOError:
            return b""
        except OSError:
            return None

    def _take_alone(self, descriptor: int, data: bytes, local: bool, who: str) -> bool:
        """Serves a plain request that came whole. Returns False, and does nothing, if this is not one."""
        size = len(data)
        if size < 5 or data[0] != SPOOL_REQUEST or data[3] != PLAIN or size != 4 + (data[1] | data[2] << 8):
            return False
        if size > 4 + self._config.buffer_size:
            return False
        try:
            block = data[4:]
            terms = read_terms(block, local=local)
            if terms is not PLAIN_TERMS and not _may_be_alone(terms):
                return False
            self.services.admission.open_prompt(block, terms, LoneRequest(descriptor, self.connections, self.services), who)
        except Refused:
            return False  # a conversation says so, in the dialect of this client
        return True

    def _greet(self, handshakes: Handshakes, sock: socket.socket, who: str) -> None:
        """Takes a connection that begins with a ClientHello, or has not begun."""
        if not (self.connections.has_place() or handshakes.drop_oldest() or self._has_place()):
            sock.close()
            self.connections.gone()
            self.services.report_rarely("too_many_connections", peer=who, limit=self.connections.room.limit)
            return
        sock.setblocking(False)
        _prepare(sock)

        def named(name: str) -> Stream:
            def conversation_of(stream: Stream) -> Conversation:
                caller = Caller(who, is_local=False, is_allowed=True, certified=name)
                return Conversation(self.services, stream, caller, max_block=self._config.buffer_size)

            return Stream(self.connections, conversation_of, b"", stranger=False)

        handshakes.begin(sock, who, lambda sock: self._converse(sock, b"", who, False, self._is_allowed(who)), named)

    def _say_no_tls(self, sock: socket.socket, who: str) -> None:
        """Answers a ClientHello when this node has no certificate: with a TLS alert, which the client understands."""
        with contextlib.suppress(OSError):
            sock.send(NO_TLS)
        sock.close()
        self.connections.gone()
        self.services.count_handshake_failure()
        self.services.report_rarely("handshake_failed", peer=who, reason="it speaks TLS, but this node has no --tls-cert")

    def _converse(self, sock: socket.socket, data: bytes, who: str, local: bool, allowed: bool, *, own: bool = False) -> None:
        limit = self.connections.room.limit
        if (not allowed and self.connections.strangers >= STRANGERS) or not self._has_place(own=own):
            with contextlib.suppress(OSError):
                sock.send(REFUSED)
            sock.close()
            self.connections.gone()
            self.services.report_rarely("too_many_connections", peer=who, limit=limit if allowed else STRANGERS)
            return
        if self._handshakes is None and is_client_hello(data):
            self._say_no_tls(sock, who)
            return
        if not local:
            _prepare(sock)

        def conversation_of(stream: Stream) -> Conversation:
            caller = Caller(who, is_local=local, is_allowed=allowed)
            return Conversation(self.services, stream, caller, max_block=self._config.buffer_size)

        def stream() -> Stream:
            return Stream(self.connections, conversation_of, data, stranger=not allowed, own=own)

        task = spawn(self._loop.connect_accepted_socket(stream, sock))
        task.add_done_callback(self._converse_started)

    def _converse_started(self, task: "asyncio.Task[Any]") -> None:
        if not task.cancelled() and task.exception() is not None:
            self.connections.gone()
            self.services.report("connection_failed", reason=str(task.exception()))

    def _accept_failed(self, listening: socket.socket, error: OSError) -> None:
        if error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM):
            # A pause: accepting again at once would spin.
            self.services.report_rarely("accept_failed", reason=error.strerror)
            self.connections.end_one()
            self._loop.remove_reader(listening)
            self._loop.call_later(0.1, self._accept_again, listening)

    def _accept_again(self, listening: socket.socket) -> None:
        if listening.fileno() >= 0:
            self._wait(listening)

    def _is_allowed(self, host: str) -> bool:
        if host not in self._allowed:
            if len(self._allowed) > 10000:
                self._allowed.clear()
            self._allowed[host] = self._config.lets_in(host)
        return self._allowed[host]


def _may_be_alone(terms: Terms) -> bool:
    """Whether a request with these terms is for this node, whole, and answered with four bytes."""
    return not (terms.body or terms.web or terms.destination or terms.pickled or terms.own_file)


def _begins_plainly(listening: socket.socket, descriptor: int) -> bool:
    """Whether bytes have come that are not a ClientHello. They stay in the socket for the handshake."""
    sock = socket.socket(listening.family, listening.type, listening.proto, descriptor)  # all given: nothing is asked
    try:
        return sock.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT) != CLIENT_HELLO
    except BlockingIOError:
        return False
    except OSError:
        return True  # the reader finds out
    finally:
        sock.detach()


def mode_of(config: Config) -> int | None:
    """The mode of unix sockets; None: as the umask says."""
    return int(config.chmod_socket, 8) if config.chmod_socket else None


def bind_all(config: Config) -> list[socket.socket]:
    """Binds sockets for all addresses of the configuration. Raises BadConfig."""
    return [sock for address in config.listen for sock in bind(address, mode_of(config))]


def bind(address: str, mode: int | None) -> list[socket.socket]:
    """Binds sockets for an address: one, or one for each address of a host name.

    Raises:
        BadConfig: the address cannot be bound.
    """
    parsed = parse_address(address)
    try:
        if isinstance(parsed, str):
            return [_bind_unix(parsed, mode)]
        found = socket.getaddrinfo(*parsed, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        return [_bind_tcp(family, place) for family, _, _, _, place in dict.fromkeys(found)]
    except OSError as error:
        raise cannot_listen(address, error, "-s") from error


def cannot_listen(address: str, error: OSError, option: str) -> BadConfig:
    """Why the address of an option cannot be bound."""
    named = address if option == "-s" else f"{address} ({option})"
    if error.errno == errno.EADDRINUSE:
        remedy = f"stop it, or give this node another address with {option}"
        return BadConfig(f"cannot listen on {named}: another program listens there; {remedy}")
    # The system's words alone: asyncio puts the address before them.
    reason = os.strerror(error.errno) if error.errno and error.errno > 0 else error.strerror or error
    return BadConfig(f"cannot listen on {named}: {reason}")


def tune(sock: socket.socket) -> socket.socket:
    """Sets what makes many short connections over TCP cheap. Returns the socket."""
    if sock.family != socket.AF_UNIX:
        # Inherited by what is accepted: four bytes are held until the close that follows, and leave with it in one packet.
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_CORK, 1)
        # The kernel reports a connection when its first bytes are there, or after a second.
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_DEFER_ACCEPT, 1)
    return sock


def _bind_tcp(family: int, place: Any) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        tune(sock)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.bind(place)
    except OSError:
        sock.close()
        raise
    return sock


def _bind_unix(path: str, mode: int | None) -> socket.socket:
    _remove_stale(path)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    try:
        sock.bind(path)
        if mode is not None:
            os.chmod(path, mode)
    except OSError:
        sock.close()
        raise
    return sock


def _remove_stale(path: str) -> None:
    """Removes the socket of a process that is gone. One that answers stays, and binding then fails."""
    try:
        if not stat.S_ISSOCK(os.lstat(path).st_mode):
            return
    except FileNotFoundError:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as probe:
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            os.unlink(path)
        except BlockingIOError:
            pass  # a process listens there, and is busy


def name_of(sock: socket.socket) -> str:
    """The address of a bound socket, in the form of the command line."""
    place = sock.getsockname()
    if isinstance(place, str):
        return place
    return f"[{place[0]}]:{place[1]}" if sock.family == socket.AF_INET6 else f"{place[0]}:{place[1]}"


def _prepare(sock: socket.socket) -> None:
    """Sends answers at once, and notices after two minutes that a client's machine is gone."""
    with contextlib.suppress(OSError):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_CORK, 0)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 60)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 20)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3)
