"""Makes `import uwsgi` and `import uwsgidecorators` give our two modules, for workers and for web processes."""

import sys
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import TYPE_CHECKING

from spoolnode.compat import uwsgidecorators

if TYPE_CHECKING:
    from importlib.abc import Loader
else:
    Loader = object  # each worker comes by here, and `importlib.abc` loads a dozen modules


def install_lookalikes(uwsgi: ModuleType) -> None:
    """From here on `uwsgi` is this module, and the next import of `uwsgidecorators` gives ours."""
    sys.modules["uwsgi"] = uwsgi
    sys.modules.pop("uwsgidecorators", None)
    sys.meta_path[:] = [Decorators(), *(finder for finder in sys.meta_path if not isinstance(finder, Decorators))]


class Decorators(Loader):
    """Finds our `uwsgidecorators` before any other. It is not in `sys.modules` beforehand, because its import has an effect."""

    def find_spec(self, fullname: str, path: object, target: object = None) -> ModuleSpec | None:  # noqa: ARG002  # its names
        """The place of the module."""
        return ModuleSpec(fullname, self, origin=uwsgidecorators.__file__) if fullname == "uwsgidecorators" else None

    def create_module(self, spec: ModuleSpec) -> ModuleType:  # noqa: ARG002  # its names
        """The module, which exists already under its other name."""
        return uwsgidecorators

    def exec_module(self, module: ModuleType) -> None:  # noqa: ARG002  # its names
        """The effect of the import."""
        uwsgidecorators.activate()
