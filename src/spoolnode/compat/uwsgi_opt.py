"""A node's settings by their names in uWSGI: `uwsgi.opt`. Pure."""

import os
from collections.abc import Mapping
from typing import Any

_NAMES = {
    "workers": "spooler-processes",
    "spooler_frequency": "spooler-frequency",
    "timeout": "spooler-harakiri",
    "max_tasks": "spooler-max-tasks",
    "buffer_size": "buffer-size",
    "chmod_socket": "chmod-socket",
    "listen": "socket",
    "chdir": "chdir",
    "import_": "import",
    "pythonpath": "pythonpath",
    "env": "env",
    "touch_reload": "touch-reload",
}
"""Settings that uWSGI has too. A value of 0 or empty was not given; of a list uWSGI shows the last item."""


def always_on() -> dict[str, bytes | bool]:
    """Options that uWSGI must be given, and that hold here anyway. sentry-sdk warns of a `uwsgi` that does not have them."""
    return {"enable-threads": True, "py-call-uwsgi-fork-hooks": True}


def uwsgi_options(settings: Mapping[str, Any]) -> dict[str, bytes | bool]:
    """`uwsgi.opt` from the settings of `spoolnode.node.config.Config`: bytes as typed, True for options without a value."""
    options: dict[str, bytes | bool] = {"master": True, "spooler-ordered": True, **always_on()}
    options["spooler"] = os.fsencode(os.path.realpath(settings["spool"]))
    if app := settings["app"]:
        options["wsgi-file" if app.endswith(".py") else "module"] = os.fsencode(app)
    for ours, theirs in _NAMES.items():
        if settings[ours]:
            options[theirs] = os.fsencode(_text(settings[ours]))
    return options


def _text(value: object) -> str:
    """The value as people write it: uWSGI's numbers are whole, and programs read them with `int`."""
    if isinstance(value, list):
        return str(value[-1])
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)
