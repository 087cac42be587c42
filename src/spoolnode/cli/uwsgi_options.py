"""The options of uWSGI: those that have another name here, those without effect, and those with another way to do the same."""

IMPORTS = [f"{process}{way}import" for process in ("shared-", "", "spooler-") for way in ("", "py", "py-", "python-")]
"""Modules imported besides the application, in the order in which uWSGI imports them."""

ALIASES = {
    **dict.fromkeys(("socket", "uwsgi-socket"), "listen"),
    "spooler": "spool",
    **dict.fromkeys(("module", "wsgi", "wsgi-file", "file"), "app"),
    **{name: "import" for name in IMPORTS if name != "import"},
    "spooler-chdir": "chdir",
    **dict.fromkeys(("python-path", "pp"), "pythonpath"),
    "processes": "workers",
    "spooler-harakiri": "timeout",
    "spooler-max-tasks": "max-tasks",
    "spooler-freq": "spooler-frequency",
    "socket-timeout": "request-timeout",
    "touch-spoolers-reload": "touch-reload",
    "chmod": "chmod-socket",
    "plugins": "plugin",
    "lazy": "lazy-apps",
}
"""The option that users of uWSGI may type, and its name here."""

_WEB = "it is about web requests, which a node does not serve"

WITHOUT_EFFECT = {
    "sharedarea": ("-A", "N", "uWSGI's shared area has no effect here"),
    "spooler-ordered": ("", "", "tasks always run in order here"),
    "spooler-quiet": ("", "", "see --log-level"),
    "master": ("-M", "", "a node always watches over its workers"),
    "vacuum": ("", "", "a node removes its sockets when it ends"),
    "die-on-term": ("", "", "SIGTERM always ends a node"),
    "need-app": ("", "", "a node whose application does not load does not start"),
    "lazy-apps": ("", "", "each worker loads the application by itself"),
    "enable-threads": ("-T", "", "threads always run here; for several tasks at once see --workers"),
    "threads": ("", "N", "threads always run here; for several tasks at once see --workers"),
    "single-interpreter": ("-i", "", "each worker is one Python"),
    "strict": ("", "", "unknown options are always refused"),
    "auto-procname": ("", "", "processes keep their names here"),
    "no-orphans": ("", "", "workers end with their node"),
    "thunder-lock": ("", "", "one process listens here"),
    "plugin": ("", "NAME", "a node has no plugins"),
    "max-requests": ("-R", "N", f"{_WEB}; for tasks use --max-tasks"),
}
"""Options of uWSGI that are accepted: short form, metavar, and why they do nothing."""

INSTEAD = {
    **dict.fromkeys(("xml", "yaml", "yml", "json"), "--ini reads ini files of uWSGI, --config takes our own settings as TOML"),
    **dict.fromkeys(
        ("virtualenv", "venv", "home", "pyhome"),
        "install spoolnode in that environment and start its bin/spoolnode; for directories of modules see --pythonpath",
    ),
    **dict.fromkeys(
        ("uid", "gid", "immediate-uid", "immediate-gid", "add-gid"),
        "start the node as that user: User= in a systemd unit, or runuser -u NAME -- spoolnode join ...",
    ),
    **dict.fromkeys(("daemonize", "daemonize2"), "a node stays in the foreground; systemd runs it (examples/spoolnode@.service)"),
    **dict.fromkeys(
        ("logto", "logto2", "logger", "log-syslog", "log-format", "logformat", "disable-logging"),
        "the log goes to standard error: redirect it, or leave it to systemd; --log-level and --log-format shape it",
    ),
    **dict.fromkeys(("pidfile", "pidfile2", "safe-pidfile"), "`spoolnode stop` and `reload` find the node by its directory"),
    **dict.fromkeys(("stats", "stats-server", "stats-http"), "see `spoolnode status --json`, and --http for Prometheus"),
    "spooler-external": "it is for the web server; the node that runs the tasks gets the directory as -Q",
    "harakiri": f"{_WEB}; for tasks use --timeout",
    **dict.fromkeys(("py-autoreload", "py-auto-reload", "python-autoreload", "python-auto-reload"), "use --reload"),
    **dict.fromkeys(("touch-chain-reload", "touch-workers-reload"), "use --touch-reload"),
    **dict.fromkeys(("http-socket", "http11-socket", "https-socket", "https"), f"{_WEB}; tasks come in at -s, also from nginx"),
    **dict.fromkeys(("cron", "cron2", "timer", "signal-timer"), "use @cron or @timer in the application"),
    **dict.fromkeys(("mule", "mules", "farm"), "make it a task, or a service of its own"),
    **dict.fromkeys(("gevent", "async", "asyncio", "ugreen"), "`async def` tasks run side by side, see --concurrency"),
    **dict.fromkeys(("reload-mercy", "worker-reload-mercy"), "see --grace for a stop, --reload-grace for a reload"),
    "limit-post": f"{_WEB}; for tasks use --max-body",
    "emperor": "start each node by itself, for example with one systemd unit each",
    "procname": "processes keep their names here; --name is the node's name",
}  # fmt: skip
"""Options of uWSGI that we do not take, and what to use instead."""

SHORT_FORMS = {"-H": "home", "-d": "daemonize", "-t": "harakiri", "-x": "xml", "-y": "yaml", "-L": "disable-logging"}
"""Short forms of those, and of others that have no short form here."""
