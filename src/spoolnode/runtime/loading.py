"""Loads an application: `module`, `module:callable`, `file.py` or `file.py:callable`."""

import importlib
import importlib.machinery
import importlib.util
import os
import sys
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any

from spoolnode.calls.hooks import HOOKS
from spoolnode.calls.registry import REGISTRY
from spoolnode.client import silence
from spoolnode.compat import uwsgi_module
from spoolnode.compat.installing import install_lookalikes
from spoolnode.context import WorkerContext
from spoolnode.node.badconfig import BadConfig
from spoolnode.node.outcome import App
from spoolnode.runtime.handler import Dispatcher


def load_app(spec: str, context: WorkerContext, imports: Sequence[str] = (), path: Sequence[str] = ()) -> App:
    """Imports the application and returns what a worker runs. Called once in each worker process, in its final process.

    From here on, `import uwsgi` and `import uwsgidecorators` give our modules, and imports find modules in the current
    directory and in that of a file. At the end it calls the `@postfork` functions.

    Args:
        spec: the application.
        context: the facts about this worker.
        imports: modules and files that are imported after it.
        path: further directories with modules, relative to the current one.

    Raises:
        BadConfig: the module, file or callable does not exist, or the application has nothing to run.
        BaseException: whatever the import raises.
    """
    target, callable_name = _split(spec)
    module = import_app(spec, context, imports, path)
    named = _named(module, callable_name, spec) if callable_name else None
    problem = _problem_of(named) if named is not None else ""
    dispatcher = Dispatcher(context, None if problem else named)
    if problem and not dispatcher.has_callable:
        raise BadConfig(f"--app is {spec!r}: {callable_name!r} {problem}")
    if not dispatcher.has_callable:
        raise BadConfig(
            f"the application {spec!r} has nothing to run: it needs a function with @spool (or a module that has one, "
            f"with --import), a callable set as `uwsgi.spooler`, or one that is named, as in {target}:callable"
        )
    for function in _post_fork_hook():
        function()
    context.is_loading = False
    warning = f"--app is {spec!r}: {callable_name!r} gets no tasks, because it {problem}" if problem else ""
    return App(
        dispatcher, dispatcher.judge, REGISTRY.timers, REGISTRY.call_timer, context.inbox, warning, HOOKS.end, REGISTRY.limits
    )


def import_app(spec: str, context: WorkerContext, imports: Sequence[str] = (), path: Sequence[str] = ()) -> ModuleType:
    """Imports the application, which fills the registry. Arguments and errors are those of `load_app`."""
    target, _ = _split(spec)
    for directory in [*map(os.path.abspath, reversed(path)), os.getcwd()]:
        if os.path.isdir(directory):
            _give_way(directory)
        _put_on_path(directory)
    install_lookalikes(uwsgi_module.build(context))
    context.is_loading = True
    with silence.importing(is_first=context.is_first):
        context.is_importing = True
        module = _import("--app", target, spec)
        if hasattr(module, "INSTALLED_APPS"):  # the settings of a Django project: its applications have the tasks
            os.environ["DJANGO_SETTINGS_MODULE"] = module.__name__
            module = _import("--app", "spoolnode.django.project", spec)
        context.is_importing = False
        for other in imports:
            _import("--import", other, other)
    return module


def _split(spec: str) -> tuple[str, str]:
    target, colon, callable_name = spec.partition(":")
    if not target or (colon and not callable_name):
        raise BadConfig(f"--app is {spec!r}; it must be module, module:callable, file.py or file.py:callable")
    return target, callable_name


def _is_file(target: str) -> bool:
    return target.endswith(".py") or os.sep in target


def _put_on_path(directory: str) -> None:
    if directory not in sys.path:
        sys.path.insert(0, directory)


_IMPORTED_LATE = ("asyncio", "inspect", "spoolnode.client.aio", "spoolnode.client.control", "spoolnode.node.spool.inspect")
"""Modules that a worker imports only when a task needs them."""


def _give_way(directory: str) -> None:
    """Modules beside the application win over ones of the same name that this process has imported for itself.

    So an `import queue` means the application's queue.py, as it does where Python runs the application by itself.
    """
    try:
        names = {entry.partition(".")[0] for entry in os.listdir(directory)} - _OURS
    except PermissionError:
        return  # modules may still be found there by name
    if names.isdisjoint(sys.modules.keys() | sys.stdlib_module_names):
        return
    for late in _IMPORTED_LATE:
        importlib.import_module(late)
    beside = [name for name in names & sys.modules.keys() if _is_beside(name, directory)]
    for name in [name for name in sys.modules if name.partition(".")[0] in beside]:
        del sys.modules[name]  # the module that imported it still has it


_OURS = frozenset({"__main__", "spoolnode", "uwsgi", "uwsgidecorators", "encodings", "site", *sys.builtin_module_names})
"""Modules that no file beside the application replaces: Python itself has them before it looks there, or they are ours."""


def _is_beside(name: str, directory: str) -> bool:
    """Whether an import of that name finds a file in the directory, and not the one that is loaded."""
    if importlib.machinery.FrozenImporter.find_spec(name) is not None:
        return False  # Python's own beginning; it is never looked for in files
    found = importlib.machinery.PathFinder.find_spec(name, [directory])
    loaded = getattr(sys.modules[name], "__file__", None)
    return found is not None and found.origin is not None and found.origin != loaded


def _import(option: str, target: str, spec: str) -> ModuleType:
    """Imports what an option names."""
    return _import_file(option, target) if _is_file(target) else _import_module(option, target, spec)


def _import_module(option: str, name: str, spec: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        # Not a module that the application imports: its traceback shows that.
        if error.name is None or not f"{name}.".startswith(f"{error.name}."):
            raise
        raise BadConfig(
            f"{option} is {spec!r}: there is no module {error.name!r} in {os.getcwd()}, --pythonpath or PYTHONPATH; "
            f"a file is given as its path, {name.replace('.', os.sep)}.py"
        ) from None


def _import_file(option: str, path: str) -> ModuleType:
    """Imports a file under the name that `import` would give it: `module:qualname` means the same everywhere."""
    path = os.path.abspath(path)
    if not os.path.isfile(path):
        raise BadConfig(f"{option}: there is no file {path}")
    name = os.path.basename(path).removesuffix(".py")
    _give_way(os.path.dirname(path))
    known = sys.modules.get(name)
    if known is not None and getattr(known, "__file__", None) != path:
        raise BadConfig(f"{option}: {path} has the name of the module {name!r}, which is loaded already; rename the file")
    _put_on_path(os.path.dirname(path))
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise BadConfig(f"{option}: {path} is not a Python file; its name must end with .py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:  # as `import` does: the file may raise anything, SystemExit too
        del sys.modules[name]
        raise
    return module


def _named(module: ModuleType, name: str, spec: str) -> Callable[[dict[str, Any]], object]:
    found: Any = module
    for part in name.split("."):
        found = getattr(found, part, None)
    if not callable(found):
        what = "does not exist" if found is None else f"is a {type(found).__name__}, not a callable"
        raise BadConfig(f"--app is {spec!r}: {name!r} {what} in the module {module.__name__!r}")
    return found  # type: ignore[no-any-return]  # any callable will do


def _problem_of(named: Callable[[dict[str, Any]], object]) -> str:
    """Why a callable cannot take a task; empty if it can. A uwsgi.ini names the web application here."""
    import inspect

    if inspect.isgeneratorfunction(named) or inspect.isasyncgenfunction(named):
        return "contains a `yield`, so a call runs none of it"
    try:
        inspect.signature(named).bind({})
    except TypeError as error:
        return (
            f"cannot be called with a task, a dict ({error}); a web application does not run tasks: "
            "name the callable that does, or leave it out and set `uwsgi.spooler` or use @spool"
        )
    except ValueError:
        pass  # some functions written in C have no signature
    return ""


def _post_fork_hook() -> list[Callable[[], object]]:
    hook = getattr(sys.modules["uwsgi"], "post_fork_hook", None)
    return [hook] if hook is not None else []
