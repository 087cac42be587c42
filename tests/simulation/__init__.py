"""A seeded simulation: many real nodes in one thread, in virtual time, on bad disks and a bad network.

Real: everything in `node` between the bytes of a connection and the calls to the disk (Spool, GroupCommit, Store,
Admission, Conversation, Stream, Outbox), and the whole `cluster` (peers, pings, placement, links, sharing, draining) but its
sources.
Simulated: the event loop's clock, the disk threads, the disk, the network, discovery, the workers, the clients, the
faults. A node starts and stops in the order of a real one (`node.life`), and does the same by the clock (`node.housekeeping`).

    make simulate SEED=7        replays one seed and prints what happened
    make simulate SEED=0-2000   many, on all cores; prints those that fail

`history` has the promises, `scenario` the events, `plants` the mistakes that it must find. `timed` has the events and promises
of timers that are a whole cluster's, `stored` those of nodes with a common store (`engine`, with its mistakes in `store_plants`).
`scale` is another simulation, of the pure parts of a thousand nodes.
"""
