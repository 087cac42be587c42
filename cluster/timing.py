"""How long the cluster waits for what: one object, because these times are one system.

n is the number of peers. A ping and its answer are two packets of together about 800 bytes on a connection that is kept. What a
node costs and how soon it notices a crash is measured by `python -m simulation.scale`. Times of other systems stand beside
their code: those of mDNS in `discovery/mdns`, the kernel's in `dial`, the look-up of names in `lookup`.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Timing:
    """All in seconds. The times that something may take are long enough for a machine at load 10; those between two tries are not
    about what a machine can do.
    """

    # -- pings: how soon is it noticed that a peer has gone? --

    silence: float = 5.0
    """A peer that is up is pinged when nothing was exchanged for so long, give or take a fifth. A node sends n / silence pings a
    second, and answers as many; links that carry tasks save them. A machine that is silent is down after silence * 1.2 and three
    strikes: one `pong` (the connection that was kept) and two `connect`, 14 s at most; a node that has crashed, whose machine
    refuses connections, after silence * 1.2."""
    stale: float = 10.0
    """A status older than this is asked for, however much is exchanged: `any` and `tag:X` choose by it. At most n / stale pings a
    second."""
    gap: float = 0.5
    """At least so long between the beginnings of two pings of a peer. A flood of forged announcements costs 1 / gap pings a
    second for each peer that it names."""
    pong: float = 2.0
    """How long the answer to a ping may take. Longer: a silent machine is noticed so much later. Shorter: nodes that are only
    busy count as suspect, and `any` avoids them."""
    connect: float = 3.0
    """For name, connection and handshake together. On a network that drops packets the kernel alone would take 130 s."""
    longest_backoff: float = 60.0
    """A peer that is down is pinged after a pause drawn from 0 to 1, 2, 4 ... s, up to this. One that is down for long costs
    2 / longest_backoff pings a second, and its return is noticed after that pause, if it does not say so itself."""
    distrust: float = 60.0
    """So long a peer that was rejected is left alone, whatever is announced, and so long a link pauses after a failure of trust:
    it takes a person to mend that. `accept` and a reload of the certificates end it."""
    forget: float = 900.0
    """So long a peer is gone, and no source names it, until it is forgotten; looked at every forget / 15. It costs memory only,
    about 3 kB a peer."""

    # -- links: how soon do tasks go on? --

    answer: float = 10.0
    """How long nothing may be answered on a link while something is under way: the other side syncs its disk before it
    answers. Shorter than TCP_USER_TIMEOUT (`dial`), so that it is this node that says why. Longer: what is in doubt is sent again
    later."""
    idle: float = 30.0
    """How long a connection without work stays open: opening one costs more than keeping it, but nodes restart now and then."""
    first_retry: float = 1.0
    """A link that failed is tried after a pause drawn from 0 up to this, which doubles with each failure in a row..."""
    longest_retry: float = 60.0
    """...up to this. One that fails for long costs 2 / longest_retry connections a second for each destination. A sign of life
    of the peer ends the pause, so this is the delay only of destinations that are no peers, as uWSGI servers."""

    # -- the cluster: what becomes of tasks for nodes that are not there? --

    search: float = 5.0
    """How often unknown destinations are looked for, besides when a peer changes: a peer may have got another name. One pass over
    their names, and no packet."""
    unknown: float = 60.0
    """So long after the start a node may not be heard of until it counts as down, and what was chosen for it (`any`, `tag:X`) is
    chosen again. Longer than discovery takes; all nodes of a cluster may start together."""
    ask: float = 10.0
    """How long a drain waits for what peers say of themselves now (at most a quarter of its time); those that have not answered
    then get nothing. One ping of each peer."""


USUAL = Timing()
