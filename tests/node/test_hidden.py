"""Values of passwords and the like are not shown: by their names, wherever these stand."""

import time
from typing import Any

import pytest

from spoolnode.node.badconfig import BadConfig
from spoolnode.node.config import Config
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
        (
            {"QUERY_STRING": "user%5Bpassword%5D=x&user[token]=y&b=2"},
            {"QUERY_STRING": f"user%5Bpassword%5D={MARK}&user[token]={MARK}&b=2"},
        ),
        (
            {"url": "https://a.example/?secret_token=x=y;b=2 token="},
            {"url": f"https://a.example/?secret_token={MARK};b=2 token="},
        ),
        ({"text": "the token is secret"}, {"text": "the token is secret"}),
        ({"json": '{"user": "me", "to": [{"apiKey": 7}]}'}, {"json": f'{{"user": "me", "to": [{{"apiKey": "{MARK}"}}]}}'}),
        ({"json": '{"in": "{\\"token\\": 1}"}'}, {"json": f'{{"in": "{{\\"token\\": \\"{MARK}\\"}}"}}'}),
        ({"json": '{"url": "?token=x"}'}, {"json": f'{{"url": "?token={MARK}"}}'}),
        ({"json": '{"as":  "it is"}'}, {"json": '{"as":  "it is"}'}),
        ({"json": '{"not quite": "JSON", token=x'}, {"json": f'{{"not quite": "JSON", token={MARK}'}),
        ({"deep": '{"a":' * 1300 + "1" + "}" * 1300}, {"deep": '{"a":' * 1300 + "1" + "}" * 1300}),
    ],
)
def test_a_value_is_hidden_by_a_part_of_its_name(variables: dict[str, Any], shown: dict[str, Any]) -> None:
    task = {"id": "a", "variables": variables}
    assert USUAL.in_task(task) == {"id": "a", "variables": shown}
    assert task["variables"] is variables, "the task itself stays as it is"


def test_a_text_of_names_takes_time_in_proportion_to_its_length() -> None:
    def seconds(text: str) -> float:
        began = time.process_time()
        assert USUAL.in_task({"variables": {"text": text}})["variables"]["text"] == text
        return time.process_time() - began

    assert seconds('{"a":' * 1300) < 60
    short, long = (min(seconds("token" * count) for _ in range(5)) for count in (1300, 13000))
    assert long < 40 * short, "any client may send it, and the event loop waits until it is shown"


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
