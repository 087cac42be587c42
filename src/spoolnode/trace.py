"""The headers by which tracers join what happens in several processes: from the sender into a task, and out of it where it runs.

They travel as plain variables of the task, so they reach whatever node runs it. nginx sends those of its own request with
`HTTP_` before the name.
"""

from collections.abc import Callable, Iterable

from spoolnode.protocol.packet import MAX_BLOCK, decode_variables, encode_variables

HEADERS = ("traceparent", "tracestate", "baggage", "sentry-trace")
"""Those of W3C, and Sentry's own."""
SOURCES: list[Callable[[], dict[str, str]]] = []
"""Each gives the headers of the trace in which this process sends, for one tracer."""


def with_trace(block: bytes) -> bytes:
    """The variables of a task that is sent now, and the headers of the trace, unless it has its own or they do not fit."""
    headers: dict[str, str] = {}
    for source in SOURCES:
        for name, value in source().items():
            headers[name] = f"{headers[name]},{value}" if name in headers else value  # `baggage` is a list
    own = {name for name, _ in decode_variables(block)}
    added = encode_variables(
        (name.encode(), value.encode()) for name, value in headers.items() if name in HEADERS and name.encode() not in own
    )
    return block + added if len(block) + len(added) <= MAX_BLOCK else block


def trace_of(variables: Iterable[tuple[bytes, bytes]]) -> dict[str, str]:
    """The headers of the trace to which a task belongs. The task's own win over those of the web request that sent it."""
    found = dict(variables)
    own = {name: name.encode() for name in HEADERS}
    of_web = {name: f"HTTP_{name.upper().replace('-', '_')}".encode() for name in HEADERS}
    keys = own if any(key in found for key in own.values()) else of_web
    return {name: found[key].decode("ascii", "replace") for name, key in keys.items() if key in found}


def current_trace() -> dict[str, str]:
    """The headers of the trace to which the task that runs here belongs; empty outside of a task."""
    from spoolnode.node.work import current  # a web process runs no tasks and need not load it

    task = current.running.get()
    return {} if task is None else trace_of(task.variables)
