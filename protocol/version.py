"""The version of spoolnode, as `spoolnode --version` prints it and a node tells its peers."""

VERSION = "0.2.0"
