"""`python -m spoolnode` is the command `spoolnode`."""

import sys


def run_command() -> None:
    """Runs the command, with the modules of Python, not with those of the same names in the current directory."""
    if not sys.flags.safe_path:
        del sys.path[0]  # `-m` has put the current directory there
    from spoolnode.cli import main

    main(prog_name="spoolnode")


if __name__ == "__main__":
    run_command()
