"""Whatever comes to the listener, it answers or closes, keeps its memory, and goes on serving the others."""

import contextlib
import os
import random
import resource
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from support import RunningNode, eventually
from talk import PATIENCE, Address, connect, exchange, quiet_port, raw_request, read_all, read_answers, request
from watch import resident, status, tasks

from spoolnode import send_to_spooler
from spoolnode.node.badconfig import BadConfig
from spoolnode.node.config import Config
from spoolnode.node.ingress.listener import Listener
from spoolnode.protocol.answer import PONG, REFUSED, STORED
from spoolnode.protocol.packet import EXTENDED, MAX_BLOCK, PING, SPOOL_REQUEST, encode_variables, packet

MIB = 1 << 20
GOOD = request({"a": "b"})
WEB = [(b"REQUEST_METHOD", b"POST"), (b"a", b"b")]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningNode]:
    """One node for all of them: it has to live through everything."""
    node = RunningNode(tmp_path_factory.mktemp("server"))
    try:
        node.start("--request-timeout", "1", "--max-body", str(4 * MIB))
        pid = node.pid
        yield node
        assert node.pid == pid
        assert node.is_running
        assert not node.noise, "no traceback"
        assert exchange(("127.0.0.1", node.port), GOOD) == STORED
    finally:
        node.clean_up()


@pytest.fixture
def address(server: RunningNode) -> Address:
    """Where it listens."""
    return "127.0.0.1", server.port


RUBBISH = {
    "HTTP": b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
    "TLS hello": bytes.fromhex("16030100c8010000c40303") + bytes(192),
    "SSH": b"SSH-2.0-OpenSSH_9.2\r\n",
    "zeros": bytes(1000),
    "ones": b"\xff" * 1000,
    "a WSGI request": packet(0, encode_variables([(b"PATH_INFO", b"/")])),
    "code to eval": packet(22, b"\x00\x00print()"),
    "a signal": packet(110, b"", 17),
    "a cache request": packet(111, b"key"),
    "an answer": packet(255, b"", 1),
    "no variables": packet(SPOOL_REQUEST),
    "a variable past the end": packet(SPOOL_REQUEST, b"\x05\x00ab"),
    "an empty name": packet(SPOOL_REQUEST, b"\x00\x00\x01\x00a"),
    "an unknown dialect": packet(SPOOL_REQUEST, b"\x05\x00ab", 7),
    "a path as priority": raw_request((b"priority", b"../x"), (b"a", b"b")),
    "a reserved variable": raw_request((b"spool_seq", b"1"), (b"a", b"b")),
    "another directory": raw_request((b"spooler", b"/etc"), (b"a", b"b")),
    "a time that is none": raw_request((b"at", b"soon"), (b"a", b"b")),
    "a destination that is none": raw_request((b"spool_node", b"../../x"), (b"a", b"b")),
    "pickled arguments": raw_request((b"ud_spool_func", b"f"), (b"args", b"cos\nsystem\n(S'id'\ntR.")),
    "values that are none": raw_request((b"spool_values", b"\xc1")),
    "a huge length": raw_request((b"spool_body", b"9" * 15)),
    "a length that is none": raw_request((b"spool_body", b"-1")),
}


@pytest.mark.parametrize("what", RUBBISH)
def test_rubbish_gets_an_answer_or_a_close_and_nothing_is_stored(server: RunningNode, address: Address, what: str) -> None:
    before = status(server)["total"]
    said = exchange(address, RUBBISH[what])
    if what == "HTTP":
        assert said.startswith(b"HTTP/1.1 400"), said
        assert b"uwsgi_pass" in said
    else:
        assert said in (b"", REFUSED), said
    assert status(server)["total"] == before


@pytest.mark.parametrize("what", [what for what, data in RUBBISH.items() if data[0] == SPOOL_REQUEST])
def test_what_a_web_server_sends_is_refused_in_http(server: RunningNode, address: Address, what: str) -> None:
    block = encode_variables(WEB) + RUBBISH[what][4:]
    if what == "no variables":
        block += b"\x00"
    said = exchange(address, packet(SPOOL_REQUEST, block))
    assert said.startswith(b"HTTP/1.1 4"), said


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 100, len(GOOD) - 1])
def test_a_request_that_stops_half_way_is_closed_in_time_and_not_stored(server: RunningNode, address: Address, size: int) -> None:
    before = status(server)["total"]
    data = (GOOD * 20)[:size] if size < len(GOOD) else request({"a": "b" * 300})[:size]
    with connect(address) as sock:
        sock.sendall(data)
        began = time.monotonic()
        assert read_all(sock) in (b"", REFUSED)
        assert time.monotonic() - began < 25
    with connect(address) as sock:
        sock.sendall(data)
        sock.shutdown(socket.SHUT_WR)
        assert read_all(sock) in (b"", REFUSED)
    assert status(server)["total"] == before


def test_a_request_may_come_byte_by_byte(node: RunningNode) -> None:
    node.start("--request-timeout", "60")  # each byte may wait for a busy machine
    with connect(("127.0.0.1", node.port)) as sock:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for byte in request({"a": "b", "body": b"xyz"}):
            sock.sendall(bytes([byte]))
        assert read_all(sock) == STORED


def test_a_half_closed_client_gets_its_answers(address: Address) -> None:
    with connect(address) as sock:
        sock.sendall(b"".join(request({"n": n}, extended=True) for n in range(100)))
        sock.shutdown(socket.SHUT_WR)
        assert [modifier2 for _, modifier2, _ in read_answers(sock, 101)] == [1] * 100
    for data, answer in ((GOOD, STORED), (packet(PING), PONG)):
        with connect(address) as sock:
            sock.sendall(data)
            sock.shutdown(socket.SHUT_WR)
            assert read_all(sock) == answer


def reset(sock: socket.socket) -> None:
    """Closes with RST instead of FIN."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


def test_clients_that_reset_their_connections_leave_nothing_behind(server: RunningNode, address: Address) -> None:
    data = request({"a": "b", "body": bytes(300_000)}, extended=True)
    for index in range(200):
        sock = connect(address)
        sock.sendall([b"", b"\x11", GOOD[:-1], GOOD, data[:200_000], data * 2][index % 6])
        reset(sock)
    eventually(lambda: status(server)["connections"] == 0, "all are gone")
    eventually(lambda: not [path for path in (server.spool / "tmp").iterdir() if "upload" in path.name], "no upload is left")


def test_the_listener_grows_by_nothing_that_strangers_send(server: RunningNode, address: Address) -> None:
    rng = random.Random(7)
    corpus = [*RUBBISH.values(), *[rng.randbytes(rng.randint(1, 3000)) for _ in range(30)]]

    # Random bytes may be the beginning of a request; the client ends its half, so that the node does not wait for the rest.
    def round_of_rubbish() -> None:
        for data in corpus:
            with connect(address) as sock, contextlib.suppress(ConnectionError):
                sock.sendall(data)
                sock.shutdown(socket.SHUT_WR)
                read_all(sock)

    for _ in range(5):
        round_of_rubbish()
    before = resident(server.pid)
    for _ in range(20):
        round_of_rubbish()
    assert resident(server.pid) - before < 4 * MIB
    eventually(lambda: status(server)["connections"] == 0, "all are gone")


def test_a_body_that_is_too_large_is_answered_before_it_is_sent(server: RunningNode, address: Address) -> None:
    size = 200 * MIB
    variables = [*WEB, (b"CONTENT_LENGTH", str(size).encode())]
    for block, begin in ((variables, b"HTTP/1.1 413 "), ([(b"spool_body", str(size).encode())], REFUSED)):
        with connect(address) as sock:
            sock.sendall(raw_request(*block))
            # A client that does not read before it has sent everything, as nginx: it must get to the answer.
            with contextlib.suppress(ConnectionError):
                for _ in range(8):
                    sock.sendall(bytes(MIB))
                    time.sleep(0.001)
                sock.shutdown(socket.SHUT_WR)
            assert read_all(sock).startswith(begin)


def test_a_body_that_never_ends_is_closed_in_time_and_leaves_nothing(server: RunningNode, address: Address) -> None:
    with connect(address) as sock:
        sock.sendall(request({"a": "b", "body": bytes(3 * MIB)})[: 2 * MIB])
        eventually(lambda: list((server.spool / "tmp").glob("upload*")), "the upload has begun")
        assert read_all(sock) in (b"", REFUSED)
    eventually(lambda: not list((server.spool / "tmp").glob("upload*")), "nothing is left")


def test_a_body_in_crumbs_takes_no_more_memory_than_one_in_pieces(node: RunningNode) -> None:
    node.start()  # with more time for a request than the others: 400,000 crumbs take some on a busy machine
    address: Address = ("127.0.0.1", node.port)
    before = resident(node.pid)
    data = request({"a": "b", "body": bytes(400_000)}, extended=True)
    with contextlib.ExitStack() as stack:
        socks = [stack.enter_context(connect(address)) for _ in range(4)]
        for sock in socks:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for start in range(0, 200_000, 2):
            for sock in socks:
                sock.send(data[start : start + 2])
        assert resident(node.pid) - before < 6 * MIB
        for sock in socks:
            sock.sendall(data[200_000:])
            assert [modifier2 for _, modifier2, _ in read_answers(sock, 1)] == [1]


@pytest.mark.slow  # on a busy machine 500 clients are not all there within a second, so they get five
def test_five_hundred_slow_clients_slow_nobody_and_are_gone_in_time(node: RunningNode) -> None:
    node.start("--request-timeout", "5")
    address: Address = ("127.0.0.1", node.port)

    def seconds() -> float:
        began = time.monotonic()
        with connect(address) as sock:
            for start in range(0, 2000, 100):
                sock.sendall(b"".join(request({"n": start + n}, extended=True) for n in range(100)))
                assert len(read_answers(sock, 100)) == 100
        return time.monotonic() - began

    seconds()
    alone = min(seconds() for _ in range(3))
    with contextlib.ExitStack() as stack:
        slow = [stack.enter_context(connect(address)) for _ in range(500)]
        for index, sock in enumerate(slow):
            sock.sendall(GOOD[: index % 4 + 1])
        assert status(node)["connections"] >= 100
        crowded = min(seconds() for _ in range(3))
        assert crowded < 5 * alone + 5.0, "no strict timing: they cost nothing that would show"
        eventually(lambda: status(node)["connections"] == 0, "all are gone after --request-timeout")
        for sock in slow[:20]:
            assert read_all(sock) == b""


def test_a_reader_that_does_not_read_is_held_back_and_memory_stays(server: RunningNode, address: Address) -> None:
    before = resident(server.pid)
    task = request({"a": "b", "filler": "x" * 100}, extended=True)
    with connect(address, small_window=True) as sock:
        sock.settimeout(2.0)  # longer than --request-timeout: a client that is held back is not late
        sent, most, held_back = 0, 500_000 * len(task), False
        while not held_back and sent < most:
            try:
                sent += sock.send((task * 100)[sent % len(task) :])
            except TimeoutError:
                held_back = sent > 10_000 * len(task)  # before, it was only slow on a busy machine
        assert held_back, "the node stopped reading"
        assert resident(server.pid) - before < 64 * MIB
        whole = sent // len(task)
        assert whole > 10_000
        sock.settimeout(PATIENCE)
        answers = read_answers(sock, whole)
        assert [modifier2 for _, modifier2, _ in answers] == [1] * whole


def test_ten_thousand_pipelined_requests_are_answered_in_order(address: Address) -> None:
    with connect(address) as sock:
        data = b"".join(request({"n": n}, extended=True) for n in range(10_000))
        thread = threading.Thread(target=sock.sendall, args=(data,))
        thread.start()
        answers = read_answers(sock, 10_000)
        thread.join()
    places = [tuple(int(part) for part in block.split(b"_")[-2:]) for _, _, block in answers]
    assert len(places) == 10_000
    assert places == sorted(set(places)), "a batch after another, a record after another"


def test_more_connections_than_allowed_are_refused_and_the_others_served(node: RunningNode) -> None:
    node.start("--max-connections", "20")
    address = ("127.0.0.1", node.port)
    with contextlib.ExitStack() as stack:
        for _ in range(20):
            sock = stack.enter_context(connect(address))
            sock.sendall(packet(PING, modifier2=1))
            assert len(read_answers(sock, 1)) == 1
        with connect(address) as one_more:
            one_more.sendall(GOOD[:5])
            assert read_all(one_more) in (b"", REFUSED)
        node.wait_for_log("too_many_connections")
        sock.sendall(request({"a": "b"}, extended=True))
        assert len(read_answers(sock, 1)) == 1
    eventually(lambda: exchange(address, GOOD) == STORED, "there is room again")


def test_places_held_by_clients_that_drip_keep_nobody_else_out(node: RunningNode) -> None:
    node.start("--max-connections", "20")
    address: Address = ("127.0.0.1", node.port)
    body = request({"a": "b", "body": bytes(100_000)})
    for drip in (GOOD[:5], body[:60_000]):
        eventually(
            lambda: status(node)["connections"] == 0, "those before are gone: of more than there is room for some give way"
        )
        with contextlib.ExitStack() as stack:
            for _ in range(20):
                stack.enter_context(connect(address)).sendall(drip)
            eventually(lambda: status(node)["connections"] >= 20, "every place is taken")
            eventually(lambda: exchange(address, raw_request((b"a", b"b")) + b"x") == STORED, "a plain request that is served")
            with connect(address) as sock:
                sock.sendall(request({"a": "b"}, extended=True))
                assert [answer[1] for answer in read_answers(sock, 1)] == [1]
                sock.sendall(packet(PING, modifier2=1))
                assert [answer[0] for answer in read_answers(sock, 1)] == [PING]
            # A place that has just become free may not be noticed yet; then one is refused, and asks again.
            eventually(lambda: exchange(address, raw_request(*WEB)).startswith(b"HTTP/1.1 202"), "a web request that is served")
            assert exchange(str(node.spool / "spool.sock"), GOOD) == STORED


def test_the_owner_gets_in_when_every_other_place_is_taken_by_busy_clients(node: RunningNode) -> None:
    node.start("--max-connections", "5")
    with contextlib.ExitStack() as stack:
        for _ in range(5):
            sock = stack.enter_context(connect(("127.0.0.1", node.port)))
            sock.sendall(packet(PING, modifier2=1))
            assert len(read_answers(sock, 1)) == 1
        with connect(str(node.spool / "spool.sock")) as own:
            own.sendall(request({"a": "b"}, extended=True))
            assert [answer[1] for answer in read_answers(own, 1)] == [1]


REFUSED_REQUESTS = {
    "a priority that is none": [(b"priority", b"high"), (b"a", b"b")],
    "a pickle": [(b"args", b"x"), (b"a", b"b")],
    "a reserved variable": [(b"spool_seq", b"1"), (b"a", b"b")],
    "typed values that are none": [(b"spool_values", b"\xc1"), (b"a", b"b")],
    "another directory": [(b"spooler", b"/etc"), (b"a", b"b")],
}


@pytest.mark.parametrize("size", [0, 10, 200_000])
@pytest.mark.parametrize("what", REFUSED_REQUESTS)
def test_a_refused_request_and_its_body_spoil_nothing_for_the_next_one(address: Address, what: str, size: int) -> None:
    length = [(b"spool_body", str(size).encode())] if size else []
    refused = raw_request(*REFUSED_REQUESTS[what], *length, extended=True)
    hidden = request({"stolen": "yes"}, extended=True)
    body = (hidden * (size // len(hidden) + 1))[:size]  # a body that looks like requests must never be taken for some
    with connect(address) as sock:
        for _ in range(3):
            sock.sendall(refused + body + request({"a": "b"}, extended=True))
        assert [modifier2 for _, modifier2, _ in read_answers(sock, 6)] == [0, 1] * 3


def test_a_refused_request_with_a_body_that_is_large_or_not_known_ends_the_connection(address: Address) -> None:
    for extra in ((b"spool_body", b"5000000"), (b"spool_body", b"x")):
        with connect(address) as sock:
            sock.sendall(raw_request((b"priority", b"high"), extra, extended=True))
            assert [modifier2 for _, modifier2, _ in read_answers(sock, 1)] == [0]
            assert read_all(sock) == b""


def test_answers_that_nobody_reads_cost_little(node: RunningNode) -> None:
    node.start()
    before = resident(node.pid)
    pings = packet(PING, modifier2=1) * 50_000
    with contextlib.ExitStack() as stack:
        for _ in range(20):
            sock = stack.enter_context(connect(("127.0.0.1", node.port), small_window=True))
            sock.settimeout(0.1)
            with contextlib.suppress(TimeoutError):
                while True:
                    sock.sendall(pings)
        assert resident(node.pid) - before < 40 * MIB
        sock.settimeout(PATIENCE)
        assert {modifier1 for modifier1, _, _ in read_answers(sock, 20_000)} == {PING}


def test_bodies_that_come_slowly_cost_little(node: RunningNode) -> None:
    node.start()
    before = resident(node.pid)
    begun = raw_request((b"a", b"b"), (b"spool_body", b"900000000"), extended=True) + bytes(1_000_000)
    with contextlib.ExitStack() as stack:
        for _ in range(150):
            stack.enter_context(connect(("127.0.0.1", node.port))).sendall(begun)
        eventually(lambda: len(list((node.spool / "tmp").glob("upload*"))) > 100, "most are being written")
        # What they hold while they drip, not what passes through while their first megabytes are being written.
        eventually(lambda: resident(node.pid) - before < 80 * MIB, "they hold little")
    eventually(lambda: not list((node.spool / "tmp").glob("upload*")), "nothing is left")


def test_a_body_of_a_byte_now_and_then_is_closed_in_time(server: RunningNode, address: Address) -> None:
    with connect(address) as sock:
        sock.sendall(request({"a": "b", "body": bytes(100_000)})[:50_000])
        sock.settimeout(0.2)  # a fifth of --request-timeout
        deadline = time.monotonic() + PATIENCE
        closed = False
        while not closed:
            assert time.monotonic() < deadline, "it is held for ever"
            try:
                closed = not sock.recv(1)
            except TimeoutError:
                with contextlib.suppress(OSError):
                    sock.send(b"x")
            except ConnectionResetError:
                closed = True


def test_a_node_without_descriptors_takes_a_breath_and_goes_on(node: RunningNode) -> None:
    node.start()
    address = ("127.0.0.1", node.port)
    used = len(os.listdir(f"/proc/{node.pid}/fd"))
    resource.prlimit(node.pid, resource.RLIMIT_NOFILE, (used + 10, used + 10))
    with contextlib.ExitStack() as stack:
        for _ in range(30):
            stack.enter_context(connect(address)).sendall(GOOD[:5])
        node.wait_for_log("accept_failed")
    eventually(lambda: exchange(address, GOOD) == STORED, "it serves again")


def test_the_limit_of_the_variables_is_kept_to_the_byte(node: RunningNode) -> None:
    node.start("-b", "200")
    address = ("127.0.0.1", node.port)
    fits = raw_request((b"a", b"x" * 195))
    assert len(fits) == 4 + 200
    assert exchange(address, fits) == STORED
    assert exchange(address, raw_request((b"a", b"x" * 196))) == REFUSED
    with connect(address) as sock:
        sock.sendall(raw_request((b"a", b"x" * 196), extended=True))
        ((_, modifier2, block),) = read_answers(sock, 1)
        assert modifier2 == 0
        assert b"201 bytes" in block
        assert b"200" in block


def test_the_largest_block_of_all_is_taken_by_default(address: Address) -> None:
    largest = raw_request((b"a", b"x" * (MAX_BLOCK - 5)))
    assert exchange(address, largest) == STORED


def test_a_full_disk_stops_the_intake_and_nothing_else(node: RunningNode) -> None:
    app = "from spoolnode import uwsgi\nuwsgi.spooler = lambda env: print('ran', env['n'])\n"
    node.start()
    address = ("127.0.0.1", node.port)
    for n in range(5):
        assert exchange(address, request({"n": n})) == STORED
    node.stop()
    node.start("--min-free", str(10**17), app=app)
    with connect(address) as sock:
        sock.sendall(request({"n": 9}, extended=True))
        ((_, modifier2, block),) = read_answers(sock, 1)
        assert modifier2 == 0
        assert b"--min-free" in block
        assert b"FULL" in block
    assert exchange(address, raw_request(*WEB)).startswith(b"HTTP/1.1 507 ")
    assert exchange(address, GOOD) == REFUSED
    for n in range(5):
        node.wait_for_log("print", text=f"ran {n}")
    node.wait_for_log("disk_low")
    eventually(lambda: status(node)["total"] == 0, "all ran")
    assert not tasks(node)


STRANGER = """
import sys
sys.path[:0] = sys.argv[1].split(":")
from talk import connect, raw_request, read_all

for variables in ([(b"a", b"b")], [(b"REQUEST_METHOD", b"GET"), (b"a", b"b")]):
    with connect((sys.argv[3], int(sys.argv[4])), source=sys.argv[2]) as sock:
        sock.sendall(raw_request(*variables))
        print(read_all(sock)[:12])
"""


@pytest.mark.skipif(os.geteuid() != 0 and not os.environ.get("CI"), reason="needs root: network namespaces")
def test_only_networks_on_the_list_may_enqueue(node: RunningNode) -> None:
    port = quiet_port(random.Random())
    with namespace() as (inside, network):
        http = ["--http", f"{network}.1:0", "--http-allow", f"{network}.2/32"]
        node.start("--listen", f"{network}.1:{port}", "--allow", f"{network}.2/32", *http)
        for source, expected in ((f"{network}.2", STORED), (f"{network}.3", REFUSED)):
            said = ask_from(inside, source, f"{network}.1", port)
            assert said[0] == repr(expected), said
            assert (said[1] == repr(b"HTTP/1.1 202")) == (expected == STORED)
            assert (said[1] == repr(b"HTTP/1.1 403")) == (expected == REFUSED)
        node.wait_for_log("refused", why="forbidden", peer=f"{network}.3")
        metrics = node.lines("ready")[-1]["http"]
        for source, path, expected in ((".2", "metrics", "200"), (".3", "metrics", "403"), (".3", "readyz", "200")):
            assert status_of(inside, network + source, f"http://{metrics}/{path}") == expected


@contextlib.contextmanager
def namespace() -> Iterator[tuple[str, str]]:
    """A network namespace with the addresses .2 and .3, from which this machine is .1; its name and the network."""
    rng = random.Random()
    name = f"spoolnode{rng.randrange(1 << 24):06x}"
    near, network = f"sn{name[-6:]}", f"10.{rng.randrange(200, 250)}.{rng.randrange(250)}"
    for command in (
        f"netns add {name}",
        f"link add {near} type veth peer name far netns {name}",
        f"addr add {network}.1/24 dev {near}",
        f"link set {near} up",
        f"-n {name} addr add {network}.2/24 dev far",
        f"-n {name} addr add {network}.3/24 dev far",
        f"-n {name} link set far up",
    ):
        done = subprocess.run(["ip", *command.split()], capture_output=True, text=True, check=False)
        if done.returncode and not os.environ.get("CI"):
            subprocess.run(["ip", "netns", "del", name], capture_output=True, check=False)
            pytest.skip(f"no network namespaces here: {done.stderr}")
        assert not done.returncode, done.stderr
    try:
        yield name, network
    finally:
        subprocess.run(["ip", "netns", "del", name], check=False)


def ask_from(inside: str, source: str, host: str, port: int) -> list[str]:
    """The beginnings of the answers to a client in the namespace: to a plain request, and to one of a web server."""
    paths = ":".join([str(Path(__file__).parent), *sys.path])
    done = subprocess.run(
        ["ip", "netns", "exec", inside, sys.executable, "-c", STRANGER, paths, source, host, str(port)],
        capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    return done.stdout.splitlines()


def status_of(inside: str, source: str, url: str) -> str:
    """The HTTP status that a client in the namespace gets."""
    program = (
        "import http.client, sys; from urllib.parse import urlsplit; url = urlsplit(sys.argv[2]);"
        "ask = http.client.HTTPConnection(url.netloc, source_address=(sys.argv[1], 0), timeout=20);"
        "ask.request('GET', url.path); print(ask.getresponse().status)"
    )
    command = ["ip", "netns", "exec", inside, sys.executable, "-c", program, source, url]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout.strip()


@pytest.mark.parametrize(
    ("host", "allowed"),
    [("127.0.0.1", True), ("127.9.9.9", True), ("::1", True), ("::ffff:127.0.0.1", True), ("10.1.2.3", True),
     ("::ffff:10.1.2.3", True), ("10.2.0.1", False), ("::ffff:10.2.0.1", False), ("2001:db8::5", True),
     ("2001:db9::5", False), ("fe80::1%eth0", False)],
)  # fmt: skip
def test_the_list_knows_mapped_and_scoped_addresses(host: str, allowed: bool) -> None:
    class Bare(Listener):
        def __init__(self, config: Config) -> None:
            self._config, self._allowed = config, {}

    assert Bare(Config(allow=["10.1.0.0/16", "2001:db8::/32"]))._is_allowed(host) == allowed
    assert Bare(Config(insecure=True))._is_allowed(host)


def test_a_public_address_needs_a_list_or_a_word(node: RunningNode) -> None:
    node.start("--listen", "0.0.0.0:0", wait=False)
    assert node.wait() == 2
    assert "reachable from other machines" in "".join(node.noise)


@pytest.mark.parametrize("address", ["0.0.0.0:0", ":0", "[::]:0", "192.0.2.1:9090"])
def test_http_on_a_public_address_needs_networks_of_its_own_or_a_certificate(address: str) -> None:
    with pytest.raises(BadConfig, match=r"--http .* is reachable from other machines"):
        Config(http=address).validated()
    for others in ({"tls_cert": "c", "tls_key": "k", "tls_ca": "a"}, {"allow": ["192.0.2.0/24"]}, {"insecure": True}):
        with pytest.raises(BadConfig, match="--http"):
            Config(http=address, **others).validated()
    Config(http=address, http_allow=["192.0.2.0/24"]).validated()
    Config(http=address, http_tls_cert="c", http_tls_key="k").validated()
    Config(http="127.0.0.1:9090").validated()


def test_many_pings_behind_a_task_hold_up_nobody(node: RunningNode) -> None:
    """Their answers wait for that of the task, and are more than a connection may owe: the loop turned for ever."""
    node.start()
    task = packet(SPOOL_REQUEST, encode_variables([(b"a", b"b")]), EXTENDED)
    for _ in range(5):
        with connect(("127.0.0.1", node.port)) as rude:
            rude.sendall(task + packet(PING, b"", EXTENDED) * 400)
            answers = read_answers(rude, 401)
            assert len(answers) == 401
        assert send_to_spooler({"n": "1"}, via=node.via)
