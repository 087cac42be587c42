"""The look-alikes of uWSGI's Python modules, for unmodified applications: `import uwsgi`, `import uwsgidecorators`.

A worker always has them. A web process without uWSGI (gunicorn, uvicorn, a script) gets them with `install()`.
"""


def install(spool: str | None = None) -> None:
    """From here on, `import uwsgi` and `import uwsgidecorators` work in this process, and send to the node of this machine.

    Call it before the application is imported: in gunicorn.conf.py, wsgi.py or manage.py. Under a real uWSGI server and in
    our own workers it does nothing, because the two modules exist there already.

    Tasks go to SPOOLNODE_VIA; without it, to the node's own socket in its spool directory if this user may use it (it
    also takes the pickled arguments of `pass_arguments=True`), else to port 3031 of this machine. If the directory is named
    and may be written to, they go into it while the node is down (`dir:`). Timers and tasks run in the node's workers, never
    here.

    Args:
        spool: the node's spool directory, for the application; without it SPOOLNODE_SPOOL, else `spool`.
    """
    import sys

    if "uwsgi" not in sys.modules:
        from spoolnode.compat.web import install_modules

        install_modules(spool)
