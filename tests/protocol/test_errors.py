"""errors: two families, one exception for each kind of fault."""

import copy
import pickle
from http import HTTPStatus

import pytest

from spoolnode.protocol.errors import BadPacket, BadTask, Reason, Refused, SpoolnodeError
from spoolnode.protocol.spoolfile import Short

ERRORS = [
    SpoolnodeError("a"),
    BadTask("your task"),
    BadPacket("their bytes"),
    Short("a cut file"),
    Refused(Reason.FULL, "no room"),
]


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_every_error_is_a_spoolnode_error(error: Exception) -> None:
    assert isinstance(error, SpoolnodeError)


def test_a_bad_task_is_a_value_error_as_callers_of_uwsgi_expect() -> None:
    assert issubclass(BadTask, ValueError)


def test_what_the_other_side_did_is_not_a_value_error() -> None:
    assert not issubclass(BadPacket, ValueError)
    assert not issubclass(Refused, ValueError)


def test_the_families_do_not_overlap() -> None:
    families = [BadTask, BadPacket, Refused]
    assert not [(a, b) for a in families for b in families if a is not b and issubclass(a, b)]


def test_a_refusal_says_its_text_and_carries_its_reason() -> None:
    refusal = Refused(Reason.BUSY, "all workers are busy")
    assert str(refusal) == refusal.text == "all workers are busy"
    assert refusal.reason is Reason.BUSY


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy, lambda error: pickle.loads(pickle.dumps(error))])
def test_every_error_passes_between_processes(error: Exception, duplicate: type) -> None:
    twin = duplicate(error)
    assert (type(twin), str(twin), twin.args, vars(twin)) == (type(error), str(error), error.args, vars(error))


@pytest.mark.parametrize("reason", Reason)
def test_every_reason_is_an_http_error_of_its_own(reason: Reason) -> None:
    assert HTTPStatus(reason.value).value >= 400
    assert [other for other in Reason.__members__.values() if other.value == reason.value] == [reason]
