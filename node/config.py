"""The one table of a node's settings: command line, environment and TOML file all follow from it.

Each field says its meaning, its unit and what raising it costs. A field `max_body` is `--max-body` on the command line,
`SPOOLNODE_MAX_BODY` in the environment and `max_body` in the TOML file; `import_`, because `import` is a keyword of Python,
loses its `_` there.
"""

import re
import socket
from dataclasses import dataclass, field, fields
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from pathlib import Path
from typing import Any

from spoolnode.node.badconfig import BadConfig
from spoolnode.protocol.names import RIGHT_NODE_NAME, is_address, is_node_name
from spoolnode.protocol.packet import MAX_BLOCK

MAX_SPOOL_PATH = 107 - len("/control.sock")
MIB, GIB = 1 << 20, 1 << 30


def _setting(default: Any, help_text: str, *, short: str = "", metavar: str = "", choices: str = "") -> Any:
    """A field of the table. A list default makes the option repeatable."""
    metadata = {"help": help_text, "short": short, "metavar": metavar, "choices": choices}
    if isinstance(default, list):
        return field(default_factory=lambda: list(default), metadata=metadata)
    return field(default=default, metadata=metadata)


DEFAULT_HTTP = "127.0.0.1:9031"
"""For people and programs on this machine, without being asked for. If another program has it, the node does without."""


@dataclass(frozen=True)
class Config:
    """All settings of a node. `validated()` is called once, before anything starts."""

    spool: str = _setting("spool", "the spool directory; made if it does not exist", short="-Q", metavar="DIR")
    listen: list[str] = _setting(
        ["127.0.0.1:3031"], "host:port, [v6]:port or the path of a unix socket; may be repeated", short="-s", metavar="ADDR"
    )
    chmod_socket: str = _setting(
        "",
        "mode of the unix sockets, octal (if nginx runs as another user it needs 666, or its group and 660)",
        short="-C",
        metavar="MODE",
    )
    app: str = _setting(
        "", "the application: a module, module:callable or a .py file; without one the node accepts and keeps tasks",
        short="-w", metavar="MODULE[:CALLABLE]",
    )  # fmt: skip
    chdir: str = _setting(
        "",
        "the application's working directory; a reload follows the links in it again. Default: where the node was started",
        metavar="DIR",
    )
    callable: str = _setting("", "the callable of the application that gets the tasks; short for MODULE:NAME", metavar="NAME")
    import_: list[str] = _setting(
        [], "a module or .py file that workers import after the application; may be repeated", metavar="MODULE"
    )
    pythonpath: list[str] = _setting(
        [], "a directory with modules for the workers, relative to --chdir; may be repeated", metavar="DIR"
    )
    env: list[str] = _setting([], "a variable of the workers' environment; may be repeated", metavar="NAME=VALUE")
    workers: int = _setting(1, "worker processes; each costs the memory of the application", short="-p", metavar="N")
    concurrency: int = _setting(64, "async tasks at once in each worker", metavar="N")
    buffer_size: int = _setting(
        MAX_BLOCK, f"largest block of variables, in bytes, at most {MAX_BLOCK}", short="-b", metavar="BYTES"
    )
    name: str = _setting("", "this node's name; default: the host's name", metavar="NAME")
    tag: list[str] = _setting([], "a tag of this node, for node=tag:X; may be repeated", metavar="TAG")
    cluster: str = _setting(
        "default", "the cluster's name: nodes of other clusters on the same network are left alone", metavar="NAME"
    )
    discover: list[str] = _setting(
        ["mdns"],
        "how peers are found: mdns, static://HOST:PORT,..., dns://NAME:PORT, dns+srv://NAME, file:///PATH, "
        "consul://[TOKEN@]HOST:PORT/SERVICE, k8s://[NAMESPACE/]SERVICE[:PORT], store, none; may be repeated",
        metavar="URI",
    )
    advertise: str = _setting(
        "",
        "the address that peers use for this node if it does not listen on it (NAT, containers); a host name only "
        "with TLS, or if peers name it too",
        metavar="HOST:PORT",
    )
    hold: float = _setting(
        5 * 86400.0, "seconds that a task may wait for another node before it goes to dead/; 0: no limit", metavar="SEC"
    )
    share: float = _setting(
        0.0, "offer waiting tasks to idle peers if more than this many seconds of work wait; 0: never", metavar="SEC"
    )
    drain_on_stop: bool = _setting(False, "at a stop, hand the waiting tasks to peers (for at most --grace seconds)")
    allow: list[str] = _setting(
        [],
        "a network that may enqueue and whose nodes get tasks, besides this machine; may be repeated",
        metavar="CIDR",
    )
    store: str = _setting(
        "",
        "nats://HOST[,HOST...] or postgresql://[USER@]HOST[,HOST...]/DATABASE: tasks lie in this store, which nodes share, and "
        "not on this node's disk",
        metavar="URL",
    )
    store_away: str = _setting(
        "accept",
        "while the store is away: accept keeps tasks on this node's disk until it is back, refuse refuses them",
        choices="accept,refuse", metavar="MODE",
    )  # fmt: skip
    store_lease: float = _setting(
        30.0, "seconds after which what a node without a sign of life had taken from the store runs elsewhere", metavar="SEC"
    )
    tls_cert: str = _setting(
        "",
        "this node's certificate, from `spoolnode ca issue`; with it the node talks to other nodes over TLS only",
        metavar="FILE",
    )
    tls_key: str = _setting("", "the private key of the certificate", metavar="FILE")
    tls_ca: str = _setting("", "a file with the certificates of the authorities whose nodes are taken as peers", metavar="FILE")
    tls_crl: str = _setting(
        "", "revoked certificates, from `spoolnode ca revoke`: a list of each authority of --tls-ca",
        metavar="FILE",
    )  # fmt: skip
    trust_operators_of: list[str] = _setting(
        [],
        "a node whose operators may see and do here, over mutual TLS, what they may there; all: every node with a certificate; "
        "may be repeated",
        metavar="NODE",
    )
    insecure: bool = _setting(False, "listen on a public address without --allow: anyone who reaches it can enqueue")
    sync: str = _setting(
        "always", "always: acknowledge a task after its fsync; none: after the write, as uWSGI does",
        choices="always,none", metavar="MODE",
    )  # fmt: skip
    max_attempts: int = _setting(20, "attempts before a task goes to dead/; 0: no limit", metavar="N")
    retry_base: float = _setting(
        1.0,
        "pause after the first failed attempt, in seconds; doubled for each further one, and randomly shortened by up to half",
        metavar="SEC",
    )
    retry_max: float = _setting(3600.0, "longest pause between two attempts, in seconds", metavar="SEC")
    history: float = _setting(
        7 * 86400.0,
        "seconds that the story of a task is kept (see `spoolnode show`), also after its end; 0: no story is kept",
        metavar="SEC",
    )
    history_tasks: int = _setting(
        100_000, "tasks whose story is kept, each failed attempt counted as one more; 100,000 plain ones take about 3 MB",
        metavar="N",
    )  # fmt: skip
    keep_results: float = _setting(
        86400.0, "seconds that the result of a task with keep_result=True is kept in results/", metavar="SEC"
    )
    spooler_frequency: float = _setting(
        30.0, "longest pause, in seconds, before a task that asks for it runs again (SPOOL_RETRY, @spoolforever)", metavar="SEC"
    )
    timeout: float = _setting(
        0.0, "seconds that a task may run before its worker is killed (harakiri); 0: no limit", metavar="SEC"
    )
    max_tasks: int = _setting(0, "tasks after which a worker is replaced; 0: never", metavar="N")
    grace: float = _setting(30.0, "seconds that running tasks get to end at a stop", metavar="SEC")
    reload_grace: float = _setting(
        0.0,
        "seconds that tasks in old workers get to end after a reload, while new workers take new tasks; 0: no limit",
        metavar="SEC",
    )
    max_body: int = _setting(GIB, "largest body, in bytes; bodies over 128 KiB are streamed to disk", metavar="BYTES")
    min_free: int = _setting(64 * MIB, "intake stops when the disk has fewer free bytes than this", metavar="BYTES")
    max_connections: int = _setting(
        4096, "connections open at once; each costs 5 KiB, up to 80 KiB while a request comes in", metavar="N"
    )
    request_timeout: float = _setting(
        10.0, "seconds that a client may take to send a request, or the next piece of its body", metavar="SEC"
    )
    keep_header: list[str] = _setting(
        [], "a header of web visitors to store although it looks like a secret (Cookie, Authorization...); may be repeated",
        metavar="NAME",
    )  # fmt: skip
    http: str = _setting(
        DEFAULT_HTTP,
        "host:port for Prometheus (/metrics), probes (/livez, /readyz, /healthz) and the API, or none; public, it needs "
        "--http-allow or --http-tls-cert",
        metavar="ADDR",
    )  # fmt: skip
    http_allow: list[str] = _setting(
        [], "a network that may read --http, besides this machine; without one, with TLS, all may; may be repeated",
        metavar="CIDR",
    )  # fmt: skip
    http_tls_cert: str = _setting(
        "", "the certificate of --http, for the host names by which browsers reach it, with its chain; needs --http-tls-key",
        metavar="FILE",
    )  # fmt: skip
    http_tls_key: str = _setting("", "the private key of the certificate of --http", metavar="FILE")
    http_name: list[str] = _setting(
        [], "a name under which browsers reach --http, besides its address and localhost; may be repeated", metavar="NAME"
    )  # fmt: skip
    http_token_file: str = _setting(
        "", "a file with a token that opens the contents of tasks and all actions on --http to programs", metavar="FILE"
    )  # fmt: skip
    hide: list[str] = _setting(
        ["password", "passwd", "secret", "token", "api_key", "authorization", "cookie"],
        "a name, in place of the default ones: arguments and variables that have it in theirs are shown as ••••; "
        "none: all are shown; may be repeated",
        metavar="NAME",
    )  # fmt: skip
    reload: bool = _setting(False, "restart the workers when a .py file below the current directory changes (development)")
    touch_reload: list[str] = _setting(
        [], "reload the application whenever this file is touched, written or replaced; may be repeated", metavar="FILE"
    )
    log_level: str = _setting("info", "debug logs lines for each task", choices="debug,info,warning,error", metavar="LEVEL")
    log_format: str = _setting(
        "auto",
        "text for people, json for programs; auto: text on a terminal and in a journal",
        choices="auto,text,json",
        metavar="FORMAT",
    )

    def validated(self) -> "Config":
        """This configuration, with its name filled in.

        Raises:
            BadConfig: a value is out of its range. One sentence says which, and what would be right.
        """
        for item in fields(self):
            allowed = item.metadata["choices"].split(",") if item.metadata["choices"] else []
            value = getattr(self, item.name)
            if allowed and value not in allowed:
                raise BadConfig(f"--{option_name(item.name)} is {value!r}; it must be one of {', '.join(allowed)}")
        for name, low, high in _RANGES:
            value = getattr(self, name)
            if not low <= value <= high:
                raise BadConfig(f"--{option_name(name)} is {value:.16g}; it must be from {low:.16g} to {high:.16g}")
        if self.chmod_socket and not re.fullmatch(r"[0-7]{3,4}", self.chmod_socket):
            raise BadConfig(f"--chmod-socket is {self.chmod_socket!r}; it must be an octal mode like 660")
        self._check_tls()
        self._check_addresses()
        if wrong := [header for header in self.keep_header if not re.fullmatch(r"[A-Za-z0-9_-]+", header)]:
            raise BadConfig(f"--keep-header is {wrong[0]!r}; it must be the name of a header like Cookie")
        self._check_hidden()
        self.networks()
        self.http_networks()
        spool = str(Path(self.spool).absolute())
        if len(spool.encode()) > MAX_SPOOL_PATH:
            raise BadConfig(
                f"--spool {spool} has {len(spool.encode())} bytes; it must have at most {MAX_SPOOL_PATH}, "
                "because the path of a unix socket in it may have 107"
            )
        name = self.name or default_name()
        if not is_node_name(name):
            raise BadConfig(f"--name is {name!r}; it must be {RIGHT_NODE_NAME}")
        for option, text in (("--cluster", self.cluster), *(("--tag", tag) for tag in self.tag)):
            if not is_node_name(text):
                raise BadConfig(f"{option} is {text!r}; it must be {RIGHT_NODE_NAME}")
        if self.advertise and not is_address(self.advertise):
            raise BadConfig(f"--advertise is {self.advertise!r}; it must be host:port or [v6]:port, as peers can reach it")
        app, *imports = self._modules()
        return Config(**{**self.__dict__, "name": name, "spool": spool, "app": app, "callable": "", "import_": imports})

    def _modules(self) -> list[str]:
        """The application, and the modules imported after it. Without an application, the first import is the application."""
        for variable in self.env:
            if not re.fullmatch("[^=]+=.*", variable, re.DOTALL):
                raise BadConfig(f"--env is {variable!r}; it must be NAME=VALUE")
        first, *rest = [self.app, *self.import_] if self.app or not self.import_ else self.import_
        if not self.callable:
            return [first, *rest]
        if not first:
            raise BadConfig(f"--callable is {self.callable!r}, but there is no application; name it with --app MODULE")
        if ":" in first:
            raise BadConfig(f"--callable is {self.callable!r}, but --app {first} names a callable already; give one of them")
        return [f"{first}:{self.callable}", *rest]

    def _check_addresses(self) -> None:
        for address in self.listen:
            check_address("listen", address)
            if is_public(address) and not (self.allow or self.tls_cert or self.insecure):
                raise BadConfig(
                    f"--listen {address} is reachable from other machines: name the networks that may enqueue with --allow CIDR, "
                    "give this node a certificate with --tls-cert, --tls-key and --tls-ca (see `spoolnode ca --help`), "
                    "or give --insecure to take requests from anyone"
                )
        if self.http != "none":
            check_address("http", self.http)
            if is_public(self.http) and not (self.http_allow or self.http_tls_cert):
                raise BadConfig(
                    f"--http {self.http} is reachable from other machines: name the networks that may read it with "
                    "--http-allow CIDR, or give it a certificate with --http-tls-cert and --http-tls-key"
                )

    def _check_hidden(self) -> None:
        if wrong := [name for name in self.hide if not re.search(r"[^-_. ]", name)]:
            raise BadConfig(f"--hide is {wrong[0]!r}; it must be a part of names, like password, or none")
        if "none" in self.hide and len(self.hide) > 1:
            raise BadConfig("--hide none shows every value; it must be given alone")

    def _check_tls(self) -> None:
        given = {name: bool(getattr(self, name)) for name in ("tls_cert", "tls_key", "tls_ca")}
        if any(given.values()) and not all(given.values()):
            missing = [f"--{option_name(name)}" for name, there in given.items() if not there]
            said = f"{' and '.join(missing)} {'is' if len(missing) == 1 else 'are'} missing"
            raise BadConfig(f"{said}: --tls-cert, --tls-key and --tls-ca are given together, or none of them")
        if self.tls_crl and not self.tls_cert:
            raise BadConfig("--tls-crl says which certificates are revoked; it needs --tls-cert, --tls-key and --tls-ca")
        if self.trust_operators_of and not self.tls_cert:
            raise BadConfig("--trust-operators-of counts only over mutual TLS; it needs --tls-cert, --tls-key and --tls-ca")
        if wrong := [name for name in self.trust_operators_of if name != "all" and not is_node_name(name)]:
            raise BadConfig(f"--trust-operators-of is {wrong[0]!r}; it must be a node's name, or all")
        if bool(self.http_tls_cert) != bool(self.http_tls_key):
            absent = "--http-tls-key" if self.http_tls_cert else "--http-tls-cert"
            raise BadConfig(f"{absent} is missing: --http-tls-cert and --http-tls-key are given together, or neither")

    def lets_in(self, host: str) -> bool:
        """Whether plain requests are taken from this address (of any family)."""
        return self.insecure or _is_in(host, self.networks())

    def trusts_operators_of(self, node: str) -> bool:
        """Whether operators of the node whose certificate has this name may act here."""
        return node in self.trust_operators_of or "all" in self.trust_operators_of

    def lets_look(self, host: str) -> bool:
        """Whether requests over HTTP are answered to this address (of any family)."""
        is_for_all = bool(self.http_tls_cert) and not self.http_allow
        return is_for_all or _is_in(host, self.http_networks())

    def networks(self) -> list[IPv4Network | IPv6Network]:
        """The networks of `allow`."""
        return _networks("allow", self.allow)

    def http_networks(self) -> list[IPv4Network | IPv6Network]:
        """The networks of `http_allow`."""
        return _networks("http-allow", self.http_allow)


_RANGES: list[tuple[str, float, float]] = [
    ("workers", 1, 256),
    ("concurrency", 1, 1024),
    ("buffer_size", 64, MAX_BLOCK),
    ("max_attempts", 0, 255),
    ("retry_base", 0.001, 86400),
    ("retry_max", 0.001, 30 * 86400),
    ("history", 0, 10**9),
    ("history_tasks", 1, 10**9),
    ("keep_results", 1, 10**9),
    ("spooler_frequency", 0.001, 30 * 86400),
    ("timeout", 0, 10**8),
    ("max_tasks", 0, 10**12),
    ("grace", 0, 10**8),
    ("reload_grace", 0, 10**8),
    ("hold", 0, 10**9),
    ("share", 0, 10**6),
    ("store_lease", 3, 86400),
    ("max_body", 0, 10**15),
    ("min_free", 0, 10**18),
    ("max_connections", 1, 10**6),
    ("request_timeout", 0.01, 86400),
]


def option_name(name: str) -> str:
    """The command line's spelling of a field. A field whose name is a keyword of Python ends with `_`."""
    return name.rstrip("_").replace("_", "-")


def default_name() -> str:
    """The host's name, changed so that it is a valid node name."""
    return re.sub(r"[^A-Za-z0-9._-]", "-", socket.gethostname()).lstrip(".")[:63] or "node"


def parse_address(text: str) -> tuple[str, int] | str:
    """`host:port` or `[v6]:port` as a pair; anything with a slash, or that ends with .sock, is the path of a unix socket.

    Raises:
        BadConfig: it is neither.
    """
    if re.fullmatch("[0-9]{1,5}", text):
        raise BadConfig(
            f"{text!r} is a port without a host: write 127.0.0.1:{text} for this machine alone, or 0.0.0.0:{text} for all"
        )
    if "/" not in text and ":" not in text and not text.endswith((".sock", ".socket")):
        raise BadConfig(
            f"the address {text!r} is neither host:port nor a path: write 127.0.0.1:3031, or ./NAME for a unix socket"
        )
    if "/" in text or ":" not in text:
        if not text or len(text.encode()) > 107:
            raise BadConfig(f"the unix socket path {text!r} has {len(text.encode())} bytes; it must be 1 to 107 bytes long")
        return text
    host, _, port = text.rpartition(":")
    if not re.fullmatch("[0-9]{1,5}", port) or not int(port) < 65536:
        raise BadConfig(f"the address {text!r} has the port {port!r}; it must be host:port, [v6]:port or a path")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        raise BadConfig(f"the address {text!r} is ambiguous; write an IPv6 address as [v6]:port")
    return host or "0.0.0.0", int(port)  # noqa: S104  # `:3031` says so; without --allow it is refused at the start


def check_address(name: str, text: str) -> None:
    """Raises `BadConfig` with the name of the setting if a text is not an address."""
    try:
        parse_address(text)
    except BadConfig as error:
        raise BadConfig(f"--{option_name(name)}: {error}") from None


def _networks(option: str, given: list[str]) -> list[IPv4Network | IPv6Network]:
    try:
        return [ip_network(item, strict=False) for item in given]
    except ValueError as error:
        raise BadConfig(f"--{option}: {error}; it must be a network like 10.0.0.0/8") from None


def _is_in(host: str, networks: list[IPv4Network | IPv6Network]) -> bool:
    """Whether an address is this machine's own, or in one of these networks."""
    address = ip_address(host.partition("%")[0])
    mapped = getattr(address, "ipv4_mapped", None) or address
    return mapped.is_loopback or any(mapped in network for network in networks)


def is_public(address: str) -> bool:
    """Whether other machines may reach a listener on this address."""
    parsed = parse_address(address)
    if isinstance(parsed, str):
        return False
    host = parsed[0]
    if host == "localhost":
        return False
    try:
        return not ip_address(host).is_loopback
    except ValueError:
        return True
