"""Where a setting counts from, and what is said about one that is wrong. Pure functions, and the command for a few."""

import tomllib
from pathlib import Path

import pytest
from support import command

from spoolnode.cli.settings import SETTINGS, as_toml, gather, read_size, unknown_variables
from spoolnode.node.badconfig import BadConfig
from spoolnode.node.config import Config
from spoolnode.node.duration import read_duration


@pytest.fixture
def toml(tmp_path: Path) -> Path:
    return tmp_path / "node.toml"


def test_nothing_given_is_the_default() -> None:
    assert gather({}, {}).config == Config()


def test_command_line_beats_environment_beats_file(toml: Path) -> None:
    toml.write_text("workers = 2\nmax_attempts = 3\nname = 'file'\n")
    found = gather({"workers": 4, "name": None}, {"SPOOLNODE_WORKERS": "3", "SPOOLNODE_MAX_ATTEMPTS": "5"}, str(toml))
    assert (found.config.workers, found.config.max_attempts, found.config.name) == (4, 5, "file")
    assert found.places["workers"] == "command line"
    assert found.places["max_attempts"] == "SPOOLNODE_MAX_ATTEMPTS"
    assert found.places["name"] == str(toml)
    assert found.places["sync"] == "default"


def test_file_can_be_named_by_the_environment_and_the_command_line_names_another(toml: Path, tmp_path: Path) -> None:
    toml.write_text("workers = 2\n")
    other = tmp_path / "other.toml"
    other.write_text("workers = 7\n")
    environment = {"SPOOLNODE_CONFIG": str(toml)}
    assert gather({}, environment).config.workers == 2
    assert gather({}, environment, str(other)).config.workers == 7


def test_empty_repeated_option_counts_as_not_given() -> None:
    assert gather({"listen": ()}, {"SPOOLNODE_LISTEN": "a:1, b.sock,"}).config.listen == ["a:1", "b.sock"]
    assert gather({"listen": ("c:2",)}, {"SPOOLNODE_LISTEN": "a:1"}).config.listen == ["c:2"]


@pytest.mark.parametrize(("text", "value"), [("1", True), ("yes", True), ("TRUE", True), ("off", False), ("", False)])
def test_flag_in_the_environment(text: str, value: bool) -> None:
    assert gather({}, {"SPOOLNODE_INSECURE": text}).config.insecure is value


@pytest.mark.parametrize(("text", "size"), [("65536", 65536), ("64k", 65536), ("3M", 3 << 20), ("1G", 1 << 30), ("2T", 2 << 40)])
def test_sizes_may_have_units(text: str, size: int) -> None:
    assert read_size(text) == size


def test_sizes_with_units_count_in_all_three_places(toml: Path) -> None:
    toml.write_text('max_body = "3M"\n')
    assert gather({}, {}, str(toml)).config.max_body == 3 << 20
    assert gather({}, {"SPOOLNODE_MAX_BODY": "5M"}, str(toml)).config.max_body == 5 << 20


@pytest.mark.parametrize(
    ("text", "seconds"), [("90", 90), ("1.5", 1.5), ("250ms", 0.25), ("30s", 30), ("5m", 300), ("2H", 7200), ("1d", 86400)]
)
def test_lengths_of_time_may_have_units(text: str, seconds: float) -> None:
    assert read_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "m", "-1", "5x", "1h30m", "inf", "nan", "5 m", "1e3", "9" * 400])
def test_what_is_no_length_of_time(text: str) -> None:
    with pytest.raises(ValueError, match=f"^{text}$"):
        read_duration(text)


def test_lengths_of_time_with_units_count_in_all_three_places(toml: Path) -> None:
    toml.write_text('timeout = "5m"\n')
    assert gather({}, {}, str(toml)).config.timeout == 300
    assert gather({}, {"SPOOLNODE_TIMEOUT": "2h"}, str(toml)).config.timeout == 7200


def test_printed_lengths_of_time_and_sizes_are_as_people_type_them(toml: Path) -> None:
    given = {"timeout": 86400.0, "grace": 90.0, "retry_base": 0.25, "hold": 1234567.0, "keep_results": 0.0, "max_body": 3 << 20}
    toml.write_text(as_toml(gather({**given, "buffer_size": 65535}, {})))
    values = tomllib.loads(toml.read_text())
    assert {name: values[name] for name in (*given, "buffer_size")} == {
        "timeout": "1d", "grace": "90s", "retry_base": 0.25, "hold": "1234567s", "keep_results": 0.0, "max_body": "3M",
        "buffer_size": 65535,
    }  # fmt: skip
    assert {name: getattr(gather({}, {}, str(toml)).config, name) for name in given} == given


@pytest.mark.parametrize(
    ("name", "text", "right"),
    [
        ("WORKERS", "two", "a whole number"),
        ("GRACE", "long", "seconds, or a number with a unit, like 90, 500ms, 30s, 5m, 2h or 1d"),
        ("RELOAD", "perhaps", "true or false"),
        ("MAX_BODY", "3X", "a number of bytes, like 65536, 64M or 1G"),
    ],
)
def test_wrong_value_in_the_environment_is_named_with_what_is_right(name: str, text: str, right: str) -> None:
    with pytest.raises(BadConfig) as caught:
        gather({}, {f"SPOOLNODE_{name}": text})
    assert str(caught.value) == f"SPOOLNODE_{name} is {text!r}; it must be {right}"


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("workers = 'two'", "workers is 'two'; it must be a whole number"),
        ("workers = true", "workers is True; it must be a whole number"),
        ("workers = 1.5", "workers is 1.5; it must be a whole number"),
        ("insecure = 1", "insecure is 1; it must be true or false"),
        ("listen = 'a:1'", "listen is 'a:1'; it must be a list of texts"),
        ("listen = [1]", "listen is [1]; it must be a list of texts"),
        ("grace = 'long'", "grace is 'long'; it must be seconds, or a number with a unit, like 90, 500ms, 30s, 5m, 2h or 1d"),
        ("name = 7", "name is 7; it must be a text"),
        ("workerz = 2", "there is no setting 'workerz'; did you mean 'workers'?"),
        ("max-body = 2", "there is no setting 'max-body'; did you mean 'max_body'?"),
        ("qqq = 2", "there is no setting 'qqq'; `spoolnode config` prints all settings"),
        ("[workers]", "workers is {}; it must be a whole number"),
    ],
)
def test_wrong_key_or_type_in_the_file_is_one_sentence(toml: Path, line: str, said: str) -> None:
    toml.write_text(line)
    with pytest.raises(BadConfig) as caught:
        gather({}, {}, str(toml))
    assert str(caught.value) == f"{toml}: {said}"


def test_whole_number_will_do_where_a_number_is_wanted(toml: Path) -> None:
    toml.write_text("grace = 5\n")
    grace = gather({}, {}, str(toml)).config.grace
    assert (grace, type(grace)) == (5.0, float)


@pytest.mark.parametrize("content", [b"workers = ", b"\xff\xfe"])
def test_file_that_is_no_toml_is_named(toml: Path, content: bytes) -> None:
    toml.write_bytes(content)
    with pytest.raises(BadConfig, match=f"{toml} is not TOML"):
        gather({}, {}, str(toml))


def test_printed_configuration_reads_back_as_the_same(toml: Path) -> None:
    given = {"workers": 3, "listen": ("a.sock", "[::1]:9"), "name": 'quo"te', "grace": 2.5, "reload": True}
    config = gather(given, {}).config
    toml.write_text(as_toml(gather(given, {})))
    assert gather({}, {}, str(toml)).config == config
    assert set(tomllib.loads(toml.read_text())) == set(SETTINGS)


def test_every_setting_is_an_option_of_join() -> None:
    text = command("join", "--help").stdout
    missing = [name for name in SETTINGS if "--" + name.replace("_", "-") not in text]
    assert not missing


def test_config_command_shows_all_three_places(toml: Path) -> None:
    toml.write_text("workers = 2\n")
    done = command("config", "--config", str(toml), "--max-body", "3M", SPOOLNODE_NAME="alpha")
    assert done.returncode == 0
    values = tomllib.loads(done.stdout)
    assert (values["workers"], values["name"], values["max_body"], values["hold"]) == (2, "alpha", "3M", "5d")
    assert f"workers = 2  # from: {toml}" in done.stdout
    assert 'name = "alpha"  # from: SPOOLNODE_NAME' in done.stdout
    assert 'max_body = "3M"  # from: command line' in done.stdout


def test_config_command_takes_the_words_of_uwsgi() -> None:
    words = ["--socket", "/tmp/u.sock", "--spooler", "sp", "--module", "m", "--processes", "4"]
    done = command("config", *words, "--spooler-harakiri", "7", "--spooler-max-tasks", "9")
    values = tomllib.loads(done.stdout)
    found = [values[name] for name in ("listen", "spool", "app", "workers", "timeout", "max_tasks")]
    assert found == [["/tmp/u.sock"], "sp", "m", 4, "7s", 9]


@pytest.mark.parametrize(
    ("args", "environment", "said"),
    [
        (["--retry-base", "0"], {}, "--retry-base is 0; it must be from 0.001 to 86400"),
        (["--max-body", "-1"], {}, "--max-body is -1; it must be from 0 to 1000000000000000"),
        (
            ["--name", "any"],
            {},
            "--name is 'any'; it must be 1 to 63 letters, digits, '.', '_' or '-', not beginning",
        ),
        (["--cluster", "a b"], {}, "--cluster is 'a b'; it must be 1 to 63 letters"),
        (["--advertise", "foo"], {}, "--advertise is 'foo'; it must be host:port or [v6]:port, as peers can reach it"),
        (["--chdir", "/nowhere"], {}, "--chdir is '/nowhere': there is no directory /nowhere"),
        (["--workers", "0"], {}, "--workers is 0; it must be from 1 to 256"),
        (["-s", "0.0.0.0:0"], {}, "--listen 0.0.0.0:0 is reachable from other machines"),
        ([], {"SPOOLNODE_WORKERS": "x"}, "SPOOLNODE_WORKERS is 'x'; it must be a whole number"),
        (["--config", "/nowhere.toml"], {}, "/nowhere.toml cannot be read: No such file or directory"),
        (["-s", "4990"], {}, "--listen: '4990' is a port without a host: write 127.0.0.1:4990 for this machine alone"),
        (["--http", "9090"], {}, "--http: '9090' is a port without a host: write 127.0.0.1:9090"),
        (["--http", "no place"], {}, "--http: the address 'no place' is neither host:port nor a path"),
        (["--listen", "host:port"], {}, "'host:port' has the port 'port'"),
    ],
)
def test_wrong_setting_ends_join_with_one_sentence_and_2(
    tmp_path: Path, args: list[str], environment: dict[str, str], said: str
) -> None:
    done = command("join", *args, cwd=tmp_path, **environment)
    assert done.returncode == 2
    assert done.stderr.startswith("Error: ")
    assert said in done.stderr
    assert done.stderr.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_seed_that_is_no_address_ends_join_with_one_sentence_and_2(tmp_path: Path) -> None:
    done = command("join", "host:port", "-s", "127.0.0.1:0", cwd=tmp_path)
    assert done.returncode == 2
    assert "--discover static://host:port: the address 'host:port' cannot be" in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    "args", [["join", "--workers", "two"], ["join", "-p", "1.5"], ["dead", "ls", "--limit", "x"], ["ca", "init", "--days", "x"]]
)
def test_what_is_no_whole_number_is_called_so(tmp_path: Path, args: list[str]) -> None:
    done = command(*args, cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.rstrip().endswith(f"{args[-1]!r} is not a valid whole number.")


KUBERNETES = {
    "SPOOLNODE_PORT": "tcp://10.3.0.1:3031", "SPOOLNODE_PORT_3031_TCP": "tcp://10.3.0.1:3031",
    "SPOOLNODE_PORT_3031_TCP_ADDR": "10.3.0.1",
    "SPOOLNODE_PORT_3031_TCP_PORT": "3031", "SPOOLNODE_PORT_3031_TCP_PROTO": "tcp", "SPOOLNODE_SERVICE_HOST": "10.3.0.1",
    "SPOOLNODE_SERVICE_PORT": "3031", "SPOOLNODE_SERVICE_PORT_HTTP": "80", "SPOOLNODE_BETA_SERVICE_HOST": "10.3.0.2",
    "SPOOLNODE_BETA_PORT": "tcp://10.3.0.2:3031", "SPOOLNODE_BETA_PORT_3031_TCP": "tcp://10.3.0.2:3031",
}  # fmt: skip
DOCKER = {"SPOOLNODE_NAME": "/web/spoolnode", "SPOOLNODE_ENV_PATH": "/bin", "SPOOLNODE_PORT": "tcp://172.17.0.2:3031"}


@pytest.mark.parametrize("environment", [KUBERNETES, DOCKER])
def test_variables_of_services_and_links_that_are_called_like_us_are_none_of_ours(environment: dict[str, str]) -> None:
    assert gather({}, environment).config == Config()
    assert unknown_variables(environment) == {}


def test_an_empty_store_is_refused_on_the_command_line_only(tmp_path: Path) -> None:
    """`--store "$STORE"` with a name that is misspelt must not keep tasks on one disk."""
    with pytest.raises(BadConfig, match="--store is empty"):
        gather({"store": ""}, {})
    assert gather({}, {"SPOOLNODE_STORE": ""}).config.store == ""
    (tmp_path / "all.toml").write_text(as_toml(gather({}, {})))
    assert gather({}, {}, file=str(tmp_path / "all.toml")).config.store == "", "as `spoolnode config` prints it"


def test_empty_variable_is_none(toml: Path) -> None:
    toml.write_text('allow = ["10.0.0.0/8"]\nworkers = 3\ninsecure = true\n')
    empty = {f"SPOOLNODE_{name.upper()}": "" for name in SETTINGS}
    config = gather({}, {**empty, "SPOOLNODE_CONFIG": str(toml)}).config
    assert (config.allow, config.workers, config.insecure) == (["10.0.0.0/8"], 3, True)
    assert unknown_variables({"SPOOLNODE_ALOW": ""}) == {}


def test_misspelt_variable_is_told_with_the_one_that_was_meant() -> None:
    given = {"SPOOLNODE_ALOW": "10.0.0.0/8", "SPOOLNODE_QQQ_PORT": "3031", "SPOOLNODE_WORKERS": "2", "SPOOLNODE_WORKER": "3"}
    assert unknown_variables(given) == {
        "SPOOLNODE_WORKER": "there is no setting 'SPOOLNODE_WORKER'; did you mean 'SPOOLNODE_WORKERS'?",
        "SPOOLNODE_ALOW": "there is no setting 'SPOOLNODE_ALOW'; did you mean 'SPOOLNODE_ALLOW'?",
        "SPOOLNODE_QQQ_PORT": "there is no setting 'SPOOLNODE_QQQ_PORT'; `spoolnode config` prints all settings",
    }
