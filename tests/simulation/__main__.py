"""Runs seeds of the simulation.

python -m simulation 7            the story of seed 7, step by step
python -m simulation 0-2000       many, on all cores; prints those that fail
python -m simulation --of timers 0-300
                                  stories about the timers of a cluster, instead of those about tasks
python -m simulation --of store 0-300
                                  about nodes that share a common store
"""

import argparse
import os
import sys

from .run import STORIES, print_story, run_range


def main() -> int:
    parser = argparse.ArgumentParser(prog="simulation", description="Runs seeds of the simulation.")
    parser.add_argument("seeds", help="one seed, whose story is printed, or a range as in 0-2000")
    parser.add_argument("--plant", default="", help="with this mistake planted (see plants.py)")
    parser.add_argument("--of", choices=STORIES, default="tasks", help="the kind of stories")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes")
    options = parser.parse_args()
    first, dash, last = options.seeds.partition("-")
    if not dash:
        return print_story(int(first), options.plant, options.of)
    return run_range(int(first), int(last), options.plant, options.jobs, options.of)


if __name__ == "__main__":
    if os.environ.get("PYTHONHASHSEED") != "0":
        # The order of sets of strings has to be the same each time.
        os.environ["PYTHONHASHSEED"] = "0"
        os.execv(sys.executable, [sys.executable, "-m", __package__, *sys.argv[1:]])
    sys.exit(main())
