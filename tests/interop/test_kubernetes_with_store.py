"""examples/kubernetes/with-store.yaml: what Kubernetes would say of it, and whether a node runs with what is in it."""

from typing import Any

import pytest
from documents import ROOT
from support import RunningNode, eventually

MANIFEST = ROOT / "examples" / "kubernetes" / "with-store.yaml"


@pytest.fixture
def found() -> dict[str, Any]:
    """The objects in the file, by their kinds."""
    import yaml

    return {item["kind"]: item for item in yaml.safe_load_all(MANIFEST.read_text())}


@pytest.mark.parametrize("version", ["1.31", "1.35"])
def test_each_object_is_as_the_schemas_of_kubernetes_want_it(found: dict[str, Any], version: str) -> None:
    import kubernetes_validate

    for item in found.values():
        kubernetes_validate.validate(item, version, strict=True)


def test_its_pods_are_those_of_the_other_manifest_but_for_what_a_store_makes_needless(found: dict[str, Any]) -> None:
    import yaml

    other = next(
        item for item in yaml.safe_load_all((MANIFEST.parent / "spoolnode.yaml").read_text()) if item["kind"] == "StatefulSet"
    )
    pod, theirs = (item["spec"]["template"]["spec"] for item in (found["Deployment"], other))
    (container,), (their,) = pod["containers"], theirs["containers"]
    same = ("ports", "startupProbe", "livenessProbe", "readinessProbe", "resources", "securityContext")
    assert {name: container[name] for name in same} == {name: their[name] for name in same}
    assert pod["securityContext"].items() <= theirs["securityContext"].items()
    assert {mount["name"] for mount in container["volumeMounts"]} == {volume["name"] for volume in pod["volumes"]}
    assert found["Service"]["spec"]["selector"] == found["Deployment"]["spec"]["selector"]["matchLabels"]


def test_a_node_runs_with_these_very_settings(found: dict[str, Any], node: RunningNode) -> None:
    """Its store is not there; that it is refused, as the file says, shows that it is meant."""
    settings = (
        found["ConfigMap"]["data"]["node.toml"].replace("0.0.0.0:3031", "127.0.0.1:0").replace("0.0.0.0:9031", "127.0.0.1:0")
    )
    (node.directory / "node.toml").write_text(settings.replace("@db/app", "@127.0.0.1:1/app"))
    (node.directory / "app.py").write_text("import spoolnode\n\n@spoolnode.spool\ndef mail():\n    pass\n")
    command, config = found["Deployment"]["spec"]["template"]["spec"]["containers"][0]["args"]
    assert (command, config) == ("join", "--config=/etc/spoolnode/node.toml")
    node.start(f"--config={node.directory / 'node.toml'}", "-s", "127.0.0.1:0", "--http", "127.0.0.1:0", "--discover", "none")
    eventually(lambda: node.lines("store_away"), "it looks for its store")
    refused = node.command("send", "n=1")
    assert refused.returncode == 1
    assert "the common store is away" in refused.stderr
    assert node.stop() == 0
