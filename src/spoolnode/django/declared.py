"""`@task_options`: how a task of Django is tried and limited, for which Django's own `@task` has no place."""

from collections.abc import Callable
from typing import Any, TypeVar

from spoolnode.calls.call_options import Options, check_options
from spoolnode.calls.registry import REGISTRY, full_name
from spoolnode.calls.spooled_function import Exceptions
from spoolnode.decorators import exceptions_of, limit_of
from spoolnode.django.library import base
from spoolnode.errors import BadDecoration

F = TypeVar("F", bound=Callable[..., Any])

OPTIONS, GIVE_UP_ON = "spoolnode_options", "spoolnode_give_up_on"
"""The attributes of a function that has some."""


def task_options(
    *,
    timeout: float | None = None,
    max_attempts: int | None = None,
    retry_base: float | None = None,
    retry_max: float | None = None,
    give_up_on: type[BaseException] | Exceptions = (),
    limit: int | None = None,
    rate: str | None = None,
) -> Callable[[F], F]:
    """Options of a task, written below `@task`. Each means what it does for `@spool`.

    Raises:
        BadTask, BadDecoration: as `@spool` does.
    """
    options = Options(timeout=timeout, max_attempts=max_attempts, retry_base=retry_base, retry_max=retry_max)
    check_options(options)
    exceptions, limits = exceptions_of(give_up_on), limit_of(limit, rate)

    def decorate(function: F) -> F:
        if isinstance(function, base.Task):
            raise BadDecoration(f"@task_options of {full_name(function.func)} stands above @task; write it below")
        setattr(function, OPTIONS, options)
        setattr(function, GIVE_UP_ON, exceptions)
        REGISTRY.limit(full_name(function), limits)
        return function

    return decorate
