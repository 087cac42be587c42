"""`python -m spoolnode` is the command `spoolnode`."""

from spoolnode.cli import main

if __name__ == "__main__":
    main(prog_name="spoolnode")
