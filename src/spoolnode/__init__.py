"""A job spooler for a group of machines, without a broker. This package is its face: `from spoolnode import ...`."""

__version__ = "0.1.0"
