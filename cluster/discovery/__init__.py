"""Sources of candidates, the possible peers. A URI names each source; several can be on at once.

mdns                                    this network segment; ?interface=ADDRESS or NAME decides where, may be repeated
static://host:port,host:port            these
dns://host:port?refresh=10              each address of that name
dns+srv://_uwsgi-spool._tcp.host        the SRV records of that name
file:///etc/spoolnode/peers.json        a JSON file as Prometheus' file_sd
none                                    no peers
"""

import random
from typing import NamedTuple
from urllib.parse import parse_qsl

from spoolnode.cluster.candidate import Discovery, Identity
from spoolnode.cluster.discovery.addresses import split_address
from spoolnode.cluster.discovery.dns import addresses_of
from spoolnode.cluster.discovery.file import File
from spoolnode.cluster.discovery.mdns import Mdns
from spoolnode.cluster.discovery.polled import REFRESH_SECONDS, Polled
from spoolnode.cluster.discovery.srv import targets_of, with_dnspython
from spoolnode.cluster.discovery.static import Static
from spoolnode.node.config import BadConfig, parse_address
from spoolnode.node.log import Report

NOBODY = "none"


class _Uri(NamedTuple):
    text: str
    scheme: str
    rest: str
    options: dict[str, list[str]]


class _Setting(NamedTuple):
    """The facts about this node that each source may need."""

    identity: Identity
    listen: list[str]
    report: Report
    rng: random.Random


def make_sources(
    uris: list[str], identity: Identity, listen: list[str], report: Report, rng: random.Random | None = None
) -> list[Discovery]:
    """The sources of these URIs.

    Args:
        uris: see above; repeated ones count once.
        identity: what may be told about this node. Without addresses it is announced where it listens.
        listen: where this node listens; real ports, not 0.
        report: told of failures: `discovery_failed`, `discovery_works`, `discovery_full`.
        rng: for jitter.

    Raises:
        BadConfig: a URI is invalid.
    """
    if NOBODY in uris and len(set(uris)) > 1:
        raise BadConfig("--discover none cannot be combined with other sources: leave it out")
    setting = _Setting(identity, listen, report, rng or random.Random())
    return [_make(_parse(uri), setting) for uri in dict.fromkeys(uris) if uri != NOBODY]


def _parse(text: str) -> _Uri:
    scheme, _, rest = text.partition("://")
    rest, _, query = rest.partition("?")
    if "://" not in text:
        scheme, _, query = text.partition("?")
    options: dict[str, list[str]] = {}
    for name, value in parse_qsl(query, keep_blank_values=True):
        options.setdefault(name, []).append(value)
    return _Uri(text, scheme, rest, options)


def _make(uri: _Uri, setting: _Setting) -> Discovery:
    """The source of one URI. Its errors name the URI."""
    makers = {"mdns": _mdns, "static": _static, "dns": _dns, "dns+srv": _srv, "file": _file}
    if uri.scheme not in makers or (uri.scheme != "mdns" and "://" not in uri.text):
        raise BadConfig(
            f"--discover is {uri.text!r}; it must be mdns, static://HOST:PORT, dns://HOST:PORT, dns+srv://NAME, "
            "file:///PATH or none"
        )
    try:
        return makers[uri.scheme](uri, setting)
    except BadConfig as error:
        raise BadConfig(f"--discover {uri.text}: {error}") from None


def _mdns(uri: _Uri, setting: _Setting) -> Discovery:
    _only(uri, "interface")
    if uri.rest:
        raise BadConfig("mdns has no host; write mdns, or mdns://?interface=ADDRESS")
    parsed = [parse_address(address) for address in setting.listen]
    tcp = [address for address in parsed if not isinstance(address, str)]
    wanted = tuple(uri.options.get("interface", ()))
    if "" in wanted:
        raise BadConfig("the option interface is empty; it must be an IPv4 address of this machine or an interface's name")
    return Mdns(uri.text, setting.identity, tcp, setting.report, rng=setting.rng, wanted=wanted)


def _static(uri: _Uri, setting: _Setting) -> Discovery:
    _only(uri)
    targets = list(dict.fromkeys(uri.rest.split(",")))
    for target in targets:
        split_address(target)
    return Static(uri.text, targets, setting.report, rng=setting.rng)


def _dns(uri: _Uri, setting: _Setting) -> Discovery:
    host, port = split_address(uri.rest)
    return Polled(uri.text, addresses_of(host, port), setting.report, rng=setting.rng, refresh=_refresh(uri))


def _srv(uri: _Uri, setting: _Setting) -> Discovery:
    if not uri.rest or set(uri.rest) & set("/:, "):
        raise BadConfig("it must be the name of SRV records, like dns+srv://_uwsgi-spool._tcp.example.org")
    ask = targets_of(uri.rest, with_dnspython())
    return Polled(uri.text, ask, setting.report, rng=setting.rng, refresh=_refresh(uri))


def _file(uri: _Uri, setting: _Setting) -> Discovery:
    _only(uri)
    if not uri.rest.startswith("/"):
        raise BadConfig("it must be an absolute path after three slashes, like file:///etc/spoolnode/peers.json")
    return File(uri.text, uri.rest, setting.report)


def _refresh(uri: _Uri) -> float:
    _only(uri, "refresh")
    text = uri.options.get("refresh", [str(REFRESH_SECONDS)])[-1]
    try:
        seconds = float(text.removesuffix("s"))
    except ValueError:
        seconds = 0.0
    if not 1 <= seconds <= 86400:
        raise BadConfig(f"refresh is {text!r}; it must be from 1 to 86400 seconds")
    return seconds


def _only(uri: _Uri, *names: str) -> None:
    if unknown := set(uri.options) - set(names):
        known = f"it may be {', '.join(names)}" if names else "it has none"
        raise BadConfig(f"it has no option {min(unknown)!r}; {known}")
