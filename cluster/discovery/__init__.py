"""Sources of candidates, the possible peers. A URI names each source; several can be on at once.

mdns                                    this network segment; ?interface=ADDRESS or NAME decides where, may be repeated
static://host:port,host:port            these
dns://host:port?refresh=10              each address of that name
dns+srv://_uwsgi-spool._tcp.host        the SRV records of that name
file:///etc/spoolnode/peers.json        a JSON file as Prometheus' file_sd
consul://token@host:8500/service        the instances of a service that pass their checks; the token may be left out
k8s://namespace/service:port            the ready endpoints of a Service of Kubernetes; namespace and port may be left out
store                                   the nodes that share the store of this one
none                                    no peers
"""

import os
import random
import re
from typing import NamedTuple
from urllib.parse import parse_qsl

from spoolnode.cluster.candidate import Discovery, Identity
from spoolnode.cluster.discovery.addresses import split_address
from spoolnode.cluster.discovery.consul import Catalogued, instances_of
from spoolnode.cluster.discovery.dns import addresses_of
from spoolnode.cluster.discovery.enrolled import Enrolled
from spoolnode.cluster.discovery.file import File
from spoolnode.cluster.discovery.followed import Followed, resting
from spoolnode.cluster.discovery.kubernetes import ServicePort, endpoints_of, from_inside
from spoolnode.cluster.discovery.mdns import Mdns
from spoolnode.cluster.discovery.polled import REFRESH_SECONDS, Polled
from spoolnode.cluster.discovery.srv import targets_of, with_dnspython
from spoolnode.cluster.discovery.static import Static
from spoolnode.cluster.store.contact import Contact
from spoolnode.node.badconfig import BadConfig
from spoolnode.node.commons import OWN_STORE
from spoolnode.node.config import parse_address
from spoolnode.node.log import Report

NOBODY = "none"


_SERVICE = re.compile(
    r"(?:(?P<namespace>[a-z0-9][a-z0-9-]{0,62})/)?(?P<service>[a-z0-9][a-z0-9-]{0,62})(?::(?P<port>[a-z0-9-]{1,15}))?"
)


class _Uri(NamedTuple):
    text: str
    """As it is shown."""
    scheme: str
    rest: str
    options: dict[str, list[str]]
    token: str = ""
    """A secret, in neither of the others."""


class _Setting(NamedTuple):
    """The facts about this node that each source may need."""

    identity: Identity
    listen: list[str]
    report: Report
    rng: random.Random
    contact: Contact | None
    """The way to its store."""


def make_sources(
    uris: list[str], identity: Identity, listen: list[str], report: Report, rng: random.Random | None = None,
    contact: Contact | None = None,
) -> list[Discovery]:  # fmt: skip
    """The sources of these URIs.

    Args:
        uris: see above; repeated ones count once.
        identity: what may be told about this node. Without addresses it is announced where it listens.
        listen: where this node listens; real ports, not 0.
        report: told of failures: `discovery_failed`, `discovery_works`, `discovery_full`.
        rng: for jitter.
        contact: the way to this node's store, if it has one.

    Raises:
        BadConfig: a URI is invalid.
    """
    if NOBODY in uris and len(set(uris)) > 1:
        raise BadConfig("--discover none cannot be combined with other sources: leave it out")
    setting = _Setting(identity, listen, report, rng or random.Random(), contact)
    return [_make(_parse(uri), setting) for uri in dict.fromkeys(uris) if uri != NOBODY]


def _parse(text: str) -> _Uri:
    scheme, _, rest = text.partition("://")
    rest, _, query = rest.partition("?")
    if "://" not in text:
        scheme, _, query = text.partition("?")
    options: dict[str, list[str]] = {}
    for name, value in parse_qsl(query, keep_blank_values=True):
        options.setdefault(name, []).append(value)
    token, at, place = rest.rpartition("@")
    if scheme == "consul" and at:
        return _Uri(f"{scheme}://{place}", scheme, place, options, token)
    return _Uri(text, scheme, rest, options)


def _make(uri: _Uri, setting: _Setting) -> Discovery:
    """The source of one URI. Its errors name the URI."""
    makers = {
        "mdns": _mdns, "static": _static, "dns": _dns, "dns+srv": _srv, "file": _file, "consul": _consul, "k8s": _k8s,
        OWN_STORE: _store,
    }  # fmt: skip
    if uri.scheme not in makers or ("://" not in uri.text and uri.scheme not in ("mdns", OWN_STORE)):
        raise BadConfig(
            f"--discover is {uri.text!r}; it must be mdns, static://HOST:PORT, dns://HOST:PORT, dns+srv://NAME, "
            "file:///PATH, consul://HOST:PORT/SERVICE, k8s://SERVICE, store or none"
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


def _consul(uri: _Uri, setting: _Setting) -> Discovery:
    _only(uri)
    agent, _, service = uri.rest.partition("/")
    if not service or "/" in service:
        raise BadConfig("it must name an agent and a service, like consul://127.0.0.1:8500/spoolnode")
    split_address(agent)
    follow = instances_of(Catalogued(agent, service, uri.token), resting(setting.rng))
    return Followed(uri.text, follow, setting.report, rng=setting.rng)


def _k8s(uri: _Uri, setting: _Setting) -> Discovery:
    _only(uri)
    parts = _SERVICE.fullmatch(uri.rest)
    if not parts:
        raise BadConfig("it must name a Service, like k8s://spoolnode-nodes or k8s://NAMESPACE/SERVICE:PORT")
    wanted = ServicePort(parts["service"], parts["namespace"] or "", parts["port"] or "")
    follow = endpoints_of(from_inside(os.environ), wanted, resting(setting.rng))
    return Followed(uri.text, follow, setting.report, rng=setting.rng)


def _store(uri: _Uri, setting: _Setting) -> Discovery:
    _only(uri)
    if uri.text != OWN_STORE:
        raise BadConfig("store is the one of --store, and has no address of its own: write store")
    if setting.contact is None:
        raise BadConfig("this node has no store in which nodes could find each other: name it with --store")
    return Enrolled(setting.identity, setting.listen, setting.contact, setting.report, rng=setting.rng)


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
