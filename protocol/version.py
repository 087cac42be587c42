"""The version of spoolnode: what `spoolnode --version` says, and what a node tells its peers."""

VERSION = "0.2.0"
