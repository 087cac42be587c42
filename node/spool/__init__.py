"""Tasks that wait on this node, and their ends: the journal under all tasks, the spool above it, reading and moving on disk."""
