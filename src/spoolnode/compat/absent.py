"""The names of uWSGI's two modules that cannot work in a node's worker, and why. The look-alikes and `doctor` say so.

Every name exists, so an application that imports or mentions it loads. A call fails with one sentence.
"""

from typing import Any, NoReturn

from spoolnode.errors import Unavailable

_MULES = "a node has no mules and no farms; use @spool"
_RPC = "a node has no RPC, and uWSGI's own spooler cannot call any either; use @spool"
_CACHE = "a node has no uWSGI cache; use a cache that other programs can reach too, or a file"
_METRICS = "a node keeps no metrics of the application; see --http for its own, and use a metrics library"
_REQUEST = "a worker of a node has no web request, like uWSGI's own spooler"
_NETWORK = "use Python's socket"
_WAITING = "use Python's select or asyncio"
_SYMBOLS = "the program that runs this has nothing embedded"
_SHARED = "a node has no shared areas; use multiprocessing.shared_memory, or a file"
_QUEUE = "a node has no such queue; use @spool"
_SNMP = "a node does not speak SNMP; see --http for its metrics"
_LEGION = "a node does not belong to a legion"

_PREFIXES = {
    "cache_": (
        _CACHE,
        "clear dec del div exists get inc keys mul num set update",
    ),
    "metric_": (_METRICS, "dec div get inc mul set set_max set_min"),
    "websocket_": (_REQUEST, "handshake recv recv_nb send send_binary"),
    "queue_": (_QUEUE, "get last pop pull pull_slot push set slot"),
    "sharedarea_": (
        _SHARED,
        "dec32 dec64 inc32 inc64 inclong memoryview object read read16 read32 read64 read8 readbyte readlong rlock unlock wlock "
        "write write16 write32 write64 write8 writebyte writelong",
    ),
    "snmp_": (
        _SNMP,
        "decr_counter32 decr_counter64 decr_gauge incr_counter32 incr_counter64 incr_gauge set_community set_counter32 "
        "set_counter64 set_gauge",
    ),
}
_SINGLE = {
    _MULES: "mule_msg mule_get_msg farm_msg farm_get_msg",
    _RPC: "rpc call",
    _REQUEST: "add_var get_logvar set_logvar chunked_read chunked_read_nb sendfile offload start_response is_connected",
    _NETWORK: "connect send recv close async_connect",
    _WAITING: "wait_fd_read wait_fd_write",
    _SYMBOLS: "embedded_data extract SymbolsImporter SymbolsZipImporter ZipImporter",
    _LEGION: "lord_scroll scrolls",
    "a node sends no alarms; see its log, and --http for its metrics": "alarm",
}
FUNCTIONS: dict[str, str] = {
    **{prefix + name: why for prefix, (why, names) in _PREFIXES.items() for name in names.split()},
    **{name: why for why, names in _SINGLE.items() for name in names.split()},
}
"""Functions of `uwsgi` that fail when they are called, with the reason."""

FILES = "files are not watched for it, so it is never called; use a library such as watchfiles"
NEVER_CALLED: dict[str, str] = {
    **dict.fromkeys(
        ("mule", "muleloop", "mulemsg", "mulemsg_loop", "mule_brain", "mule_brainloop", "farm", "farm_loop"),
        "a node has no mules and no farms, so it is never called; use @spool",
    ),
    "rpc": "a node takes no RPC, so other programs cannot call it",
    "filemon": FILES,
    "erlang": "a node has no Erlang, so it is never called",
}
"""Decorators of `uwsgidecorators` whose functions are never called, with the reason."""

NOT_IN_DECORATORS: dict[str, str] = {**NEVER_CALLED, "mulefunc": f"calling it fails: {_MULES}"}
"""The names of `uwsgidecorators` that do not work."""

NOT_IN_UWSGI: dict[str, str] = {
    **FUNCTIONS,
    "add_file_monitor": FILES,
    "register_rpc": NEVER_CALLED["rpc"],
    "lock": "the spooler cannot lock, as in uWSGI; the decorator @lock can",
    "unlock": "see lock",
    "is_locked": "see lock",
}
"""The names of `uwsgi` that do not work."""


def refuse(name: str) -> NoReturn:
    """Raises the error for a call of this function of `uwsgi`."""
    raise Unavailable(f"uwsgi.{name} does not work in a worker of spoolnode: {FUNCTIONS[name]}")


class Absent:
    """A function of `uwsgi` that fails when it is called."""

    def __init__(self, name: str) -> None:
        self.__name__ = self.__qualname__ = name
        self.__doc__ = f"Does not work here: {FUNCTIONS[name]}."

    def __repr__(self) -> str:
        return f"<uwsgi.{self.__name__}, which does not work here>"

    def __call__(self, *_: Any, **__: Any) -> NoReturn:
        refuse(self.__name__)
