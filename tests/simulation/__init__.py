"""A seeded simulation: many real nodes in one thread, in virtual time, on bad disks and a bad network.

What is real: everything in `node` between the bytes of a connection and the calls to the disk (Spool, GroupCommit, Store,
Admission, Conversation, Stream, Outbox), and the whole `cluster` (peers, pings, placement, links, sharing, draining) but its
sources.
What is simulated: the event loop's clock, the disk threads, the disk, the network, discovery, the workers, the clients, the
faults. `node.SimNode` does by the clock, at the start and at the end, what `node.Node` does.

    make simulate SEED=7        replays one seed and prints what happened
    make simulate SEED=0-2000   many, on all cores; prints those that fail

`history` says what is promised, `scenario` what happens, `plants` which mistakes it must find. `scale` is another one, of the
pure parts of a thousand nodes.
"""
