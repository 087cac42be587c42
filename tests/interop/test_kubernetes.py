"""examples/kubernetes/: what Kubernetes would say of it, and whether a node runs with exactly what is in it."""

import json
import re
import subprocess
import sys
import urllib.request
from pathlib import Path
from typing import Any

import pytest
from documents import ROOT, blocks
from support import PATIENCE, RunningNode, environment, eventually

from spoolnode.node.control.public import METRICS, PROBES

MANIFEST = ROOT / "examples" / "kubernetes" / "spoolnode.yaml"
VERSIONS = ["1.31", "1.35"]
POD = "spoolnode-0"


@pytest.fixture
def found() -> dict[str, Any]:
    """The objects in the file, by their kinds, Services by their names."""
    import yaml

    objects = [*yaml.safe_load_all(MANIFEST.read_text())]
    named = {item["metadata"]["name"] if item["kind"] == "Service" else item["kind"]: item for item in objects}
    assert len(named) == len(objects)
    return named


@pytest.fixture
def pod(found: dict[str, Any]) -> dict[str, Any]:
    return found["StatefulSet"]["spec"]["template"]["spec"]  # type: ignore[no-any-return] # read from a file


@pytest.fixture
def container(pod: dict[str, Any]) -> dict[str, Any]:
    (only,) = pod["containers"]
    return only  # type: ignore[no-any-return] # read from a file


@pytest.mark.parametrize("version", VERSIONS)
def test_each_object_is_as_the_schemas_of_kubernetes_want_it(found: dict[str, Any], version: str) -> None:
    import kubernetes_validate

    for item in found.values():
        kubernetes_validate.validate(item, version, strict=True)
    broken = json.loads(json.dumps(found["StatefulSet"]))
    broken["spec"]["template"]["spec"]["containers"][0]["livenessProbes"] = {}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(broken, version, strict=True)


@pytest.mark.parametrize("version", VERSIONS)
def test_the_account_for_endpointslices_is_valid_and_may_do_what_k8s_discovery_asks_and_nothing_else(version: str) -> None:
    import kubernetes_validate
    import yaml

    objects = {item["kind"]: item for item in yaml.safe_load_all((MANIFEST.parent / "endpointslices.yaml").read_text())}
    for item in objects.values():
        kubernetes_validate.validate(item, version, strict=True)
    allowed = {"apiGroups": ["discovery.k8s.io"], "resources": ["endpointslices"], "verbs": ["list", "watch"]}
    assert objects["Role"]["rules"] == [allowed]
    assert objects["RoleBinding"]["roleRef"]["name"] == objects["Role"]["metadata"]["name"]
    (bound,) = objects["RoleBinding"]["subjects"]
    assert (bound["kind"], bound["name"]) == ("ServiceAccount", objects["ServiceAccount"]["metadata"]["name"])


def test_its_parts_name_each_other(found: dict[str, Any], pod: dict[str, Any], container: dict[str, Any]) -> None:
    spec = found["StatefulSet"]["spec"]
    labels = spec["template"]["metadata"]["labels"]
    selectors = [spec["selector"]["matchLabels"], found["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"]]
    services = [found["spoolnode"], found["spoolnode-nodes"]]
    assert all(selector == labels for selector in [*selectors, *(service["spec"]["selector"] for service in services)])
    assert found[spec["serviceName"]]["spec"]["clusterIP"] == "None", "headless"
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    for service in services:
        assert all(ports[port["targetPort"]] == port["port"] for port in service["spec"]["ports"])
    volumes = {
        volume["name"]: volume for volume in [*pod["volumes"], *(item["metadata"] for item in spec["volumeClaimTemplates"])]
    }
    assert {mount["name"] for mount in container["volumeMounts"]} == set(volumes)
    assert volumes["settings"]["configMap"]["name"] == found["ConfigMap"]["metadata"]["name"]


def test_nothing_in_it_is_more_powerful_than_a_node_needs(pod: dict[str, Any], container: dict[str, Any]) -> None:
    """The strictest of the Pod Security Standards, `restricted`."""
    assert not pod["automountServiceAccountToken"]
    assert pod["securityContext"]["runAsNonRoot"]
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    allowed = container["securityContext"]
    assert allowed == {"allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]}}
    uid = re.search(r"^USER (\d+):", (ROOT / "docker" / "Dockerfile").read_text(), re.MULTILINE)
    assert uid is not None
    assert pod["securityContext"]["runAsUser"] == pod["securityContext"]["fsGroup"] == int(uid[1])
    assert container["resources"]["limits"]["memory"]


def made_certificates(directory: Path) -> Path:
    """What docs/kubernetes.md says to type before kubectl."""
    first = next(block for block in blocks("docs/kubernetes.md", "Start", "sh"))
    lines = "\n".join(line for line in first.text.splitlines() if not line.startswith("kubectl"))
    function = f'spoolnode() {{ "{sys.executable}" -m spoolnode "$@"; }}'
    subprocess.run(["sh", "-ec", f"{function}\n{lines}"], cwd=directory, env=environment(), check=True, capture_output=True)
    return directory / "tls"


def test_a_node_runs_with_these_very_arguments_and_settings_and_its_probes_answer(
    found: dict[str, Any], container: dict[str, Any], node: RunningNode
) -> None:
    tls = made_certificates(node.directory)
    places = {
        "/etc/spoolnode/tls": str(tls),
        "/etc/spoolnode/node.toml": str(node.directory / "node.toml"),
        "0.0.0.0:3031": "127.0.0.1:0",
        "0.0.0.0:9031": "127.0.0.1:0",
        "dns://spoolnode-nodes:3031": "none",
        "$(POD_NAME)": POD,
    }

    def here(text: str) -> str:
        for there, place in places.items():
            text = text.replace(there, place)
        return text

    mounts = {mount["mountPath"] for mount in container["volumeMounts"]}
    settings = found["ConfigMap"]["data"]["node.toml"]
    assert {"/etc/spoolnode/tls", "/etc/spoolnode/node.toml"} <= mounts
    (spool,) = (item["value"] for item in container["env"] if item["name"] == "SPOOLNODE_SPOOL")
    assert any(spool.startswith(f"{mount}/") for mount in mounts)
    (node.directory / "node.toml").write_text(here(settings))
    (node.directory / "app.py").write_text("import spoolnode\n\n@spoolnode.spool\ndef mail():\n    print('ran')\n")
    command, *args = container["args"]
    assert command == "join"
    shown = node.command("config", "--json", *map(here, args), SPOOLNODE_SPOOL=str(node.spool))
    assert shown.returncode == 0, shown.stderr
    assert json.loads(shown.stdout)["drain_on_stop"] is True
    node.name = POD  # that of the host, in a pod
    overridden = ["-s", "127.0.0.1:0", "--http", "127.0.0.1:0", "--discover", "none"]  # as `places` has it in the file
    node.start(*map(here, args), *overridden)
    address = node.lines("ready")[-1]["http"]
    probes = {container[name]["httpGet"]["path"] for name in ("startupProbe", "livenessProbe", "readinessProbe")}
    assert probes == {"/livez", "/readyz"}
    assert probes <= set(PROBES)
    for path in [*probes, METRICS]:
        with urllib.request.urlopen(f"http://{address}{path}", timeout=PATIENCE) as answer:
            assert answer.status == 200
    assert node.command("call", "app:mail").returncode == 0
    eventually(lambda: node.lines("print", text="ran"), "the task runs")
    assert node.stop() == 0


def test_what_stands_in_for_the_ports_and_names_is_the_same_everywhere(
    found: dict[str, Any], pod: dict[str, Any], container: dict[str, Any]
) -> None:
    import tomllib

    settings = tomllib.loads(found["ConfigMap"]["data"]["node.toml"])
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    assert settings["listen"] == [f"0.0.0.0:{ports['uwsgi']}"]
    assert settings["http"] == f"0.0.0.0:{ports['http']}"
    assert settings["discover"] == [f"dns://{found['StatefulSet']['spec']['serviceName']}:{ports['uwsgi']}"]
    assert found["spoolnode-nodes"]["spec"]["publishNotReadyAddresses"]
    assert pod["terminationGracePeriodSeconds"] > 2 * float(settings["grace"].removesuffix("s"))
    assert not pod["enableServiceLinks"]
