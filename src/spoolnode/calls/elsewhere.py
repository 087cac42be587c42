"""Names by which other task queues spool a call: they do not work here, and say what does."""

_STORE = ".spool(...) stores a call"
_ASYNC = "`await` .aspool(...) stores a call"
_OPTIONS = ".options(at=..., priority=..., node=...).spool(...) stores a call with options"
_MANY = ".spool_many([(1, 2), (3, 4)]) stores many calls"
_COMMIT = ".spool_on_commit(...) stores a call when the transaction commits"
_HERE = "call it like any function to run it here and now; .spool(...) stores a call"
_RETRY = "a function runs again if it raises; `raise Retry(after=300)` says when"
_NO_WORKFLOWS = "workflows do not exist here, but a function can spool the next one itself with .spool(...)"

_NAMES = {
    _STORE: ("defer", "delay", "enqueue", "send", "submit"),
    _ASYNC: ("adelay", "aenqueue", "asend", "defer_async", "kiq"),
    _OPTIONS: (
        *("apply_async", "configure", "enqueue_at", "enqueue_in"),
        *("schedule", "send_with_options", "set", "using"),
    ),
    _MANY: ("batch_defer", "chunks", "enqueue_many", "map", "starmap"),
    _COMMIT: ("apply_async_on_commit", "delay_on_commit"),
    _HERE: ("apply", "call_local", "fn", "func"),
    _RETRY: ("replace", "retry"),
    _NO_WORKFLOWS: ("message", "pipe", "s", "si", "signature", "subtask", "then"),
}
"""The names of Celery, RQ, Dramatiq, Huey, Procrastinate, Taskiq and Django, by what they say."""
_INSTEAD = {name: said for said, names in _NAMES.items() for name in names}


def no_such(name: str, what: object) -> AttributeError:
    """The error for an attribute that a spooled function, or a call of it, does not have."""
    if name.startswith("__"):  # Python looks for these by itself, also in an object that is not complete
        return AttributeError(name)
    said = _INSTEAD.get(name)
    return AttributeError(f"{what!r} has no {name!r}{': ' + said if said else ''}")
