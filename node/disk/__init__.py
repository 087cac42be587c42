"""Paths, bytes and threads: the disk of one node, real or made up. Knows no task."""
