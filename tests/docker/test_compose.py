"""docker-compose.yml on a real Docker engine: it comes up with one command, and what docs/docker.md says of it is so."""

import json
import re
import tomllib
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from signal import SIGKILL
from typing import Any

import pytest
from documents import blocks, lines_to_type, page
from engine import Engine, require
from stand_in import add_nats, add_nginx, add_python
from support import eventually

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
NODES = ("alpha", "beta", "gamma")
SETTINGS = {
    "COMPOSE_PROJECT_NAME": "demo",
    "PYTHON_IMAGE": "stand-in/python",
    "NGINX_IMAGE": "stand-in/nginx",
    "NATS_IMAGE": "stand-in/nats",
    "PIP_OPTIONS": "--no-index --no-build-isolation",
}
ID = r'\{"id": "[0-9a-f]{12}_[0-9]+_[0-9]+"\}'

STORY: list[tuple[str, str]] = [
    ("docker-compose up --build -d", ""),
    ("docker-compose exec alpha spoolnode peers", r"(?s)beta.*\bup\b.*gamma.*\bup\b"),
    ("curl -d hello localhost:8080/enqueue/beta", ID),
    ("docker-compose logs beta | grep ran", "beta ran 'hello'"),
    ("docker-compose kill beta", ""),
    ("curl -d 'are you there?' localhost:8080/enqueue/beta", ID),
    ("for node in alpha gamma; do docker-compose exec $node spoolnode status; done | grep outbox", "outbox +1 for beta"),
    ("docker-compose start beta", ""),
    ("docker-compose logs beta | grep there", r"beta ran 'are you there\?'"),
    ("docker-compose exec gamma spoolnode send text=tidy --at +15s", "^[0-9a-f]{12}_[0-9]+_[0-9]+$"),
    ("docker-compose exec gamma spoolnode drain", ""),
    ("docker-compose ps -a gamma", r"(?i)Exit 0|exited \(0\)"),
    ("docker-compose logs alpha beta | grep tidy", "(alpha|beta) ran 'tidy'"),
    ("docker-compose down", ""),
]
"""The commands of docs/docker.md, and their output, at once or, for those that only look, after a moment."""
STORE_STORY: list[tuple[str, str]] = [
    ("export COMPOSE_FILE=docker-compose.yml:docker-compose.store.yml", ""),
    ("docker-compose up --build -d", ""),
    ("docker-compose exec alpha spoolnode store check", "process dies +yes\n.* loses power +yes\n.* disk is lost +yes"),
    ("docker-compose exec alpha spoolnode send text=kept --at +20s", "^[0-9a-f]{12}_[0-9]+_[0-9]+$"),
    ("docker-compose rm -fsv alpha", ""),
    ("docker volume rm $(docker volume ls -q --filter label=com.docker.compose.volume=alpha)", ""),
    ("docker-compose kill nats1", ""),
    ("docker-compose logs beta gamma | grep kept", "(beta|gamma) ran 'kept'"),
    ("docker-compose down -v", ""),
    ("unset COMPOSE_FILE", ""),
]
"""The same for the part of that page about a store."""
LOOKS = ("peers", "logs", "status", "ps")


class Demo:
    """The engine, used from the top of the checkout."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.settings = dict(SETTINGS)

    def type(self, line: str) -> str:
        """The output of this shell line. It must succeed, except for a grep that finds nothing.

        `drain` may end with its container, as everything in there does when the node has gone.
        """
        typed = line.replace("docker-compose exec ", "docker-compose exec -T ")  # without a terminal
        done = self.engine.type(typed, ROOT, **self.settings)
        nothing_found = "| grep" in line and not done.stderr
        gone = line.endswith(" drain") and done.returncode == 128 + SIGKILL
        assert done.returncode == 0 or nothing_found or gone, f"{line}\n{done.stdout[-3000:]}{done.stderr[-3000:]}"
        return done.stdout

    def shows(self, line: str, pattern: str) -> str:
        """Its output as soon as that matches; the line only looks."""
        said = ""

        def matches() -> bool:
            nonlocal said
            said = self.type(line)
            return bool(re.search(pattern, said))

        try:
            eventually(matches, f"{pattern!r} from `{line}`")
        except AssertionError as error:
            raise AssertionError(f"{error}\n{said}\n{self.type('docker-compose logs')}") from None
        return said

    # What follows asks docker rather than docker-compose, which takes most of a second for each question.

    def container(self, service: str) -> dict[str, Any]:
        """All that Docker knows of a service's container; nothing when there is none."""
        identity = self.engine.docker("ps", "-aq", "--filter", f"label=com.docker.compose.service={service}")
        found: list[dict[str, Any]] = json.loads(self.engine.docker("inspect", identity)) if identity else [{}]
        return found[0]

    def inside(self, node: str, *command: str) -> str:
        """The output of a command inside a node's container."""
        return self.engine.docker("exec", self.container(node)["Id"], *command)

    def status(self, node: str) -> dict[str, Any]:
        """The status of a node, asked from inside."""
        status: dict[str, Any] = json.loads(self.inside(node, "spoolnode", "status", "--json"))
        return status

    def log(self, node: str) -> str:
        """The log of a node."""
        return self.engine.type(f"docker logs {self.container(node)['Id']}", ROOT).stderr

    def ran(self) -> list[tuple[str, str]]:
        """Which node has run which task, by its text."""
        return [found for node in NODES for found in re.findall(r"(\w+) ran '(\w+)'", self.log(node))]

    def enqueue(self, destination: str, text: str) -> str:
        """Sends a task through nginx; the answer."""
        return self.type(f"curl -s -d '{text}' localhost:8080/enqueue/{destination}").strip()

    def wait_until_ready(self, node: str) -> None:
        """Returns when the node in a container that was just started answers."""
        identity = self.container(node)["Id"]
        eventually(lambda: not self.engine.type(f"docker exec {identity} spoolnode ping", ROOT).returncode, f"{node} answers")


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    """A Docker engine with the images that cannot be pulled here."""
    require()
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    extras = project["project"]["optional-dependencies"]
    packages = [*project["project"]["dependencies"], *extras["tls"], *extras["nats"]]
    packages += [*project["build-system"]["requires"], "pip"]
    running = Engine()
    try:
        running.start()
        running.make_image("stand-in/python", partial(add_python, packages=packages), "ENV PATH=/usr/local/bin:/usr/bin:/bin")
        running.make_image("stand-in/nginx", add_nginx, 'CMD ["nginx", "-g", "daemon off;"]')
        running.make_image("stand-in/nats", add_nats, 'ENTRYPOINT ["/nats-server"]')
        yield running
    finally:
        running.stop()


@pytest.fixture(scope="module")
def running(engine: Engine) -> Demo:
    """The demo, up."""
    demo = Demo(engine)
    demo.type("docker-compose up --build -d")
    return demo


@pytest.fixture
def demo(running: Demo) -> Demo:
    """The demo with all of it running, whatever the test before has stopped."""
    if not running.container("nginx"):
        running.type("docker-compose up -d")
    stopped = [node for node in NODES if not running.container(node)["State"]["Running"]]
    for node in stopped:
        running.type(f"docker-compose start {node}")
        running.wait_until_ready(node)
    return running


def test_one_command_returns_when_three_healthy_nodes_and_nginx_run(demo: Demo) -> None:
    found = {node: demo.status(node) for node in NODES}
    for node, status in found.items():
        assert demo.container(node)["State"]["Health"]["Status"] == "healthy"
        assert (status["name"], status["state"], status["app"]) == (node, "running", "app")
    assert len({status["id"] for status in found.values()}) == len(NODES)
    assert demo.container("nginx")["State"]["Running"]


def test_each_node_is_a_plain_user_with_a_volume_of_its_own(demo: Demo) -> None:
    for node in NODES:
        assert demo.inside(node, "id").startswith("uid=1000(spoolnode) gid=1000(spoolnode)")
        assert [mount["Name"] for mount in demo.container(node)["Mounts"]] == [f"demo_{node}"]


def test_drained_or_stopped_node_is_not_started_again(demo: Demo) -> None:
    """As `always` would, or `unless-stopped` after a drain."""
    assert {demo.container(node)["HostConfig"]["RestartPolicy"]["Name"] for node in NODES} == {"on-failure"}


def test_task_through_nginx_for_anybody_runs_once(demo: Demo) -> None:
    texts = {f"any{number}" for number in range(5)}
    for text in texts:
        assert re.fullmatch(ID, demo.enqueue("any", text))
    eventually(lambda: sorted(text for _, text in demo.ran() if text in texts) == sorted(texts), "five tasks run")


def test_task_through_nginx_for_a_node_runs_there_and_nowhere_else(demo: Demo) -> None:
    texts = {f"{node}{number}": node for node in NODES for number in range(3)}
    for text, node in texts.items():
        assert re.fullmatch(ID, demo.enqueue(node, text))

    def done() -> bool:
        ran = [(text, node) for node, text in demo.ran() if text in texts]
        assert not [text for text, node in ran if node != texts[text]]
        return len(ran) == len(texts)

    eventually(done, "nine tasks run where they should")


def test_function_is_stored_by_its_name_from_inside(demo: Demo) -> None:
    demo.inside("beta", "python", "-c", "import app; app.resize.spool('a.png', width=640)")
    eventually(lambda: "beta resized a.png to 640 pixels" in demo.log("beta"), "beta resizes")


def test_stop_is_heard_at_once_and_lets_the_running_task_end(demo: Demo) -> None:
    # Less than --grace, and long enough for a busy machine to start docker-compose meanwhile.
    demo.inside("alpha", "spoolnode", "send", "text=long", "seconds=9")
    eventually(lambda: demo.status("alpha")["running"] == 1, "it runs")
    demo.type("docker-compose stop alpha")
    assert demo.container("alpha")["State"]["ExitCode"] == 0, "Docker itself would kill it after 15 s"
    assert re.search("(?s)stopping.*alpha ran 'long'.*stopped", demo.log("alpha"))


def test_tasks_outlive_their_container(demo: Demo) -> None:
    container, node = demo.container("beta")["Id"], demo.status("beta")["id"]
    task = demo.inside("beta", "spoolnode", "send", "text=later", "--at", "+1h")
    demo.type("docker-compose up -d --force-recreate beta")
    demo.wait_until_ready("beta")
    assert demo.container("beta")["Id"] != container
    assert demo.status("beta")["id"] == node
    assert json.loads(demo.inside("beta", "spoolnode", "show", task, "--json"))["variables"]["text"] == "later"


def test_dead_node_does_not_keep_nginx_from_the_others(demo: Demo) -> None:
    demo.type("docker-compose kill beta")
    for number in range(6):
        assert re.fullmatch(ID, demo.enqueue("any", f"without{number}"))


def test_image_alone_says_what_it_must_be_told(demo: Demo) -> None:
    done = demo.engine.type(f"docker run --rm {demo.container('alpha')['Image']}", ROOT)
    assert done.returncode == 2
    assert "name the networks that may enqueue with --allow" in done.stderr


def _wait_for_peers(demo: Demo, node: str) -> None:
    """Returns when the node says that the two others are up. `peers --json` is a list with `name` and `state`."""

    def known() -> bool:
        peers = json.loads(demo.inside(node, "spoolnode", "peers", "--json"))
        return {peer["name"]: peer["state"] for peer in peers} == dict.fromkeys(set(NODES) - {node}, "up")

    eventually(known, f"{node} knows the two others")


def test_each_node_knows_the_two_others(demo: Demo) -> None:
    for node in NODES:
        _wait_for_peers(demo, node)


def test_page_says_to_type_what_is_tried_here() -> None:
    story, _, _ = page("docs/docker.md").partition("\n## Without multicast\n")
    typed = re.findall(r"^(?:docker-compose|curl|for) .*$", story, re.MULTILINE)
    assert typed == [line for line, _ in STORY]


def _follow(demo: Demo, story: list[tuple[str, str]]) -> None:
    """Types it, and sees what it should show."""
    for line, pattern in story:
        if any(f" {word}" in line for word in LOOKS):
            demo.shows(line, pattern)
        else:
            assert re.search(pattern, demo.type(line)), line


def test_page_is_true(demo: Demo) -> None:
    _follow(demo, STORY)


def test_with_a_store_an_acknowledged_task_outlives_its_node_and_the_volume_of_that(running: Demo) -> None:
    running.type("docker-compose down -v")
    assert lines_to_type("docs/docker.md", "With a store") == [line for line, _ in STORE_STORY]
    (exported, *story, _) = STORE_STORY
    name, _, value = exported[0].removeprefix("export ").partition("=")
    stored = Demo(running.engine)
    stored.settings[name] = value
    try:
        _follow(stored, story)
    finally:
        stored.type("docker-compose down -v")


def test_without_multicast_the_name_server_tells_them(running: Demo) -> None:
    running.type("docker-compose down -v")
    other = Demo(running.engine)
    other.settings |= {"SPOOLNODE_DISCOVER": "dns://nodes:3031", "COMPOSE_FILE": "docker-compose.yml:tests/docker/internal.yml"}
    try:
        other.type("docker-compose up -d")
        for node in NODES:
            _wait_for_peers(other, node)
        other.inside("alpha", "spoolnode", "send", "--node", "gamma", "text=quiet")
        eventually(lambda: ("gamma", "quiet") in other.ran(), "gamma runs it")
    finally:
        other.type("docker-compose down -v")


def test_quick_start_runs_a_task_in_a_container(engine: Engine) -> None:
    build, run, call, look, remove = lines_to_type("docs/start-docker.md")
    options = f"--build-arg BASE={SETTINGS['PYTHON_IMAGE']} --build-arg PIP_OPTIONS='{SETTINGS['PIP_OPTIONS']}'"
    assert engine.type(f"{build} {options}", ROOT).returncode == 0
    assert engine.type(run, ROOT).returncode == 0
    try:
        eventually(lambda: not engine.type("docker exec alpha spoolnode ping", ROOT).returncode, "a reader types as slowly")
        printed = engine.type(call, ROOT).stdout
        (shown,) = blocks("docs/start-docker.md", language="text")
        assert re.fullmatch(r"[0-9a-f]{12}_\d+_\d+\n", printed)
        assert re.fullmatch(r"[0-9a-f]{12}_\d+_\d+", shown.text)

        def ran() -> bool:
            done = engine.type(look, ROOT)
            return "resized cat.png to 640 pixels" in done.stdout + done.stderr

        eventually(ran, "the log shows it")
    finally:
        assert engine.type(remove, ROOT).returncode == 0
