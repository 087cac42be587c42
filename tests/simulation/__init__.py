"""A seeded simulation: many real nodes in one thread, in virtual time, on bad disks and a bad network.

What is real: everything in `node` between the bytes of a connection and the calls to the disk (Spool, Intake, Keeper, Door,
Conversation, Stream), and, once plugged in, the cluster. What is simulated: the event loop's clock, the two disk threads,
the disk, the network, the workers, the clients, the faults.

    make simulate SEED=7        replays one seed and prints what happened
"""
