"""Certificates for tests."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from spoolnode.cluster.trust import Trust

if TYPE_CHECKING:
    from spoolnode.cluster.authority import Issued

Issue = Callable[..., "Issued"]


@pytest.fixture
def issue(tmp_path: Path) -> Issue:
    """Makes a node's certificate: `issue("alpha", days=-1, of="other")`. Each authority is made when it is first needed."""
    from spoolnode.cluster import authority as ca

    def make(name: str, days: int = 30, of: str = "ca") -> "Issued":
        directory = tmp_path / of
        if not directory.exists():
            ca.init(directory)
        out = tmp_path / f"out{len(list(tmp_path.iterdir()))}"
        return ca.issue(directory, name, days, out)

    return make


@pytest.fixture
def trust_of(issue: Issue) -> Callable[..., Trust]:
    """The certificates of a node: `trust_of("alpha", of="other")`."""

    def make(name: str, of: str = "ca") -> Trust:
        made = issue(name, of=of)
        return Trust(str(made.certificate), str(made.key), str(made.authority), name)

    return make
