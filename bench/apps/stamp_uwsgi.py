"""The same inside uWSGI, where None would mean "try again"."""

import stamp as app
import uwsgi


def stamp(task: object) -> int:
    """Has succeeded."""
    app.stamp(task)
    return uwsgi.SPOOL_OK


uwsgi.spooler = stamp
