"""Done before the command line is read: a signal that is meant for a running node must not end one that starts."""

import signal
import sys

if "join" in sys.argv[1:2]:
    # There is nothing to reload yet. The node itself listens to these signals as soon as it has an event loop.
    for number in (signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, signal.SIG_IGN)
