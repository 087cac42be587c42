"""Which node gets what waits in a store for an address at which it answers: as its status says, whatever that is."""

from typing import Any

import pytest

from spoolnode.cluster.store.forwarding import owner_of

ID = "0123456789ab"
HERE = "mail3:3031"


@pytest.mark.parametrize(
    ("status", "owner"),
    [
        ({"id": ID, "store": {"addresses": ["10.0.0.3:3031"]}}, ID),
        ({"id": ID, "store": {"addresses": []}}, ID),
        ({"id": ID, "store": {"addresses": ["10.0.0.3:3031", HERE]}}, ""),
        ({"id": ID}, ""),
        ({"id": ID, "store": {}}, ""),
        ({"id": ID, "store": {"addresses": None}}, ""),
        ({"id": ID, "store": {"addresses": {HERE: 1}}}, ""),
        ({"id": ID, "store": [HERE]}, ""),
        ({"id": "any", "store": {"addresses": []}}, ""),
        ({"id": 7, "store": {"addresses": []}}, ""),
        ({"store": {"addresses": []}}, ""),
        ({}, ""),
    ],
)
def test_a_node_gets_what_is_for_an_address_that_it_does_not_take(status: dict[str, Any], owner: str) -> None:
    assert owner_of(HERE, status) == owner
