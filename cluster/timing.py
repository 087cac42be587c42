"""The times of the cluster, in one object, because they depend on each other.

n is the number of peers. A ping and its answer are two packets of about 800 bytes together, on a connection that stays open.
`python -m simulation.scale` measures the cost for a node, and how soon it notices a crash. Times of other systems stand beside
their code: mDNS in `discovery/mdns`, the kernel in `dial`, name servers in `lookup`.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Timing:
    """All in seconds. Limits for an answer are long enough for a machine at load 10; pauses between two tries do not depend on
    the load.
    """

    # -- pings: how soon is it noticed that a peer has gone? --

    silence: float = 5.0
    """A peer that is up is pinged after this time without an exchange, give or take a fifth. A node sends n / silence pings a
    second, and answers as many; a link that carries tasks saves them. A silent machine is down after silence * 1.2 and three
    strikes: one `pong` (on the open connection) and two `connect`, at most 14 s. A crashed node, whose machine refuses
    connections, is down after silence * 1.2."""
    stale: float = 10.0
    """A status older than this is asked for, even while tasks are exchanged: `any` and `tag:X` choose by it. At most n / stale
    pings a second."""
    gap: float = 0.5
    """The least time between the beginnings of two pings of a peer. A flood of forged announcements costs 1 / gap pings a
    second for each peer that it names."""
    pong: float = 2.0
    """How long the answer to a ping may take. A higher value delays the notice of a silent machine as much. With a lower one
    busy nodes count as suspect, and `any` avoids them."""
    connect: float = 3.0
    """How long name, connection and handshake may take together. Where packets are lost, the kernel alone would take
    130 s."""
    longest_backoff: float = 60.0
    """A peer that is down is pinged after a pause drawn from 0 to 1, 2, 4 ... s, up to this. One that is down for long costs
    2 / longest_backoff pings a second. Its return is noticed after that pause, unless it tells us itself."""
    distrust: float = 60.0
    """How long a rejected peer is left alone, whatever is announced, and how long a link pauses after a failure of trust: only
    a person can mend that. `accept` and a reload of the certificates end the pause."""
    forget: float = 900.0
    """A peer that is gone for this long, and that no source names, is forgotten. Checked every forget / 15. It only costs
    memory, about 3 kB a peer."""

    # -- links: how soon do tasks go on? --

    answer: float = 10.0
    """How long a link may stay without an answer while tasks are in flight: the other side syncs its disk before it answers. It
    is shorter than TCP_USER_TIMEOUT (`dial`), so that this node gives the reason. A higher value delays the repeat of tasks in
    doubt."""
    idle: float = 30.0
    """How long a connection without work stays open: opening one costs more than keeping it, but nodes restart now and then."""
    first_retry: float = 1.0
    """A failed link is tried again after a pause drawn from 0 up to this, which doubles with each failure in a row..."""
    longest_retry: float = 60.0
    """...up to this. A link that fails for long costs 2 / longest_retry connections a second. A sign of life of the peer ends
    the pause, so only destinations that are not peers, such as uWSGI servers, wait for so long."""

    # -- the cluster: what becomes of tasks for nodes that are not there? --

    search: float = 5.0
    """The time between two searches for unknown destinations, besides those after a change: a peer may have got another name.
    Each is one pass over their names, without a packet."""
    unknown: float = 60.0
    """How long after the start an unknown node does not count as down yet. Then the tasks chosen for it (`any`, `tag:X`) are
    chosen again. Longer than discovery takes: all nodes of a cluster may start together."""
    ask: float = 10.0
    """How long a drain waits for the present status of the peers, at most a quarter of its time. Peers that have not answered
    by then get nothing. It costs one ping of each peer."""

    @property
    def settle(self) -> float:
        """How long a timer of the whole cluster waits when it is new to this node, or this node has just started: until then
        other nodes may be unknown, or not have told that they have it, and two nodes could run it. It is longer than discovery,
        and than two pings. What is due meanwhile runs later."""
        return 3 * self.silence


USUAL = Timing()
