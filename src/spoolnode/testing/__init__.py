"""For the tests of applications: tasks stay in the process, where a test looks at them and runs them.

    from spoolnode.testing import collect

    with collect() as spooled:                  # pytest: the fixture `spooled`
        mail.options(priority=5).spool(1, to=["ada@example.org"])
        [task] = spooled.of(mail)
        assert task.args == (1,) and task.priority == 5
        spooled.run()                           # as a worker does; what the function raises comes out here

With `SPOOLNODE_VIA=eager:` (or `via="eager:"`) a call runs at once, with `memory:` it is kept.
"""

from importlib import import_module

TYPE_CHECKING = False  # as in spoolnode/__init__.py
if TYPE_CHECKING:
    from spoolnode.testing.collecting import collect, collected
    from spoolnode.testing.real_node import RealNode
    from spoolnode.testing.spooled import Spooled, TaskFailed
    from spoolnode.testing.spooled_task import SpooledTask

__all__ = ["RealNode", "Spooled", "SpooledTask", "TaskFailed", "collect", "collected"]

_HOME_OF = {"collect": "collecting", "collected": "collecting", "RealNode": "real_node", "SpooledTask": "spooled_task"}


def __getattr__(name: str) -> object:
    # Not at the import: the pytest plugin lies here, and most runs of pytest do not use it.
    if name not in __all__:
        raise AttributeError(f"module 'spoolnode.testing' has no attribute {name!r}")
    value: object = getattr(import_module(f"spoolnode.testing.{_HOME_OF.get(name, 'spooled')}"), name)
    return value
