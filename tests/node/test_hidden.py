"""Values of passwords and the like are not shown: by their names, wherever these stand."""

from typing import Any

import pytest

from spoolnode.node.config import BadConfig, Config
from spoolnode.node.control.hidden import MARK, Hidden

USUAL = Hidden(Config().hide)


@pytest.mark.parametrize(
    ("variables", "shown"),
    [
        ({"password": "x", "user": "me"}, {"password": MARK, "user": "me"}),
        ({"dbPassword": "x", "API-KEY": 7, "apikey": None}, {"dbPassword": MARK, "API-KEY": MARK, "apikey": MARK}),
        ({"HTTP_X_API_KEY": "x", "HTTP_AUTHORIZATION": "x"}, {"HTTP_X_API_KEY": MARK, "HTTP_AUTHORIZATION": MARK}),
        ({"kwargs": {"to": [{"token": ["x"], "id": 1}]}}, {"kwargs": {"to": [{"token": MARK, "id": 1}]}}),
        ({"QUERY_STRING": "id=1&access_token=x&b=2"}, {"QUERY_STRING": f"id=1&access_token={MARK}&b=2"}),
        ({"text": "the token is secret"}, {"text": "the token is secret"}),
    ],
)
def test_a_value_is_hidden_by_a_part_of_its_name(variables: dict[str, Any], shown: dict[str, Any]) -> None:
    task = {"id": "a", "variables": variables}
    assert USUAL.in_task(task) == {"id": "a", "variables": shown}
    assert task["variables"] is variables, "the task itself stays as it is"


def test_a_body_is_shown_up_to_such_a_name() -> None:
    for body, shown in (('{"user": "me", "password": "x"}', f'{{"user": "me", "password{MARK}'), ("plain", "plain")):
        assert USUAL.in_task({"body_begins": body}) == {"body_begins": shown}


def test_other_names_take_the_place_of_the_usual_ones_and_none_hides_nothing() -> None:
    variables = {"password": "x", "iban": "y", "a": "iban=y"}
    assert Hidden(["iban"]).in_task({"variables": variables})["variables"] == {**variables, "iban": MARK, "a": f"iban={MARK}"}
    assert Hidden(["none"]).in_task({"variables": variables})["variables"] == variables
    assert Hidden([]).in_task({"variables": variables})["variables"] == variables


@pytest.mark.parametrize("names", [["none", "token"], ["_"], [""]])
def test_names_that_make_no_sense_are_refused(names: list[str]) -> None:
    with pytest.raises(BadConfig, match="--hide"):
        Config(hide=names).validated()
