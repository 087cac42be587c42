"""`python callcount.py join ...`: a node that counts the calls of each function of ours, in all threads.

At each ping it adds the counts so far, as a line of JSON, to the file that the variable COUNTED names.
"""

import json
import os
import sys
import threading
from collections import Counter
from pathlib import Path
from types import FrameType

import spoolnode
from spoolnode.cli import main as run
from spoolnode.node.ingress.conversation import Conversation

HOME = str(Path(spoolnode.__file__).parent)


def main() -> None:
    """Runs the command, and counts."""
    calls: Counter[str] = Counter()
    ping = Conversation._on_ping.__code__

    def note(frame: FrameType, event: str, _: object) -> None:
        code = frame.f_code
        if event != "call" or not code.co_filename.startswith(HOME):
            return
        if code is ping:
            with open(os.environ["COUNTED"], "a") as file:
                file.write(json.dumps(calls) + "\n")
        calls[f"{Path(code.co_filename).relative_to(HOME)}: {code.co_qualname}"] += 1

    threading.setprofile(note)
    sys.setprofile(note)
    run()


if __name__ == "__main__":
    main()
