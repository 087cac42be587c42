"""The same inside uWSGI, where None would mean "try again"."""

import uwsgi

SPOOL_OK = uwsgi.SPOOL_OK


def noop(task: object) -> int:
    """Has succeeded."""
    return SPOOL_OK


uwsgi.spooler = noop

import noop as _tells_the_benchmark  # noqa: E402, F401
