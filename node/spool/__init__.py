"""What waits on this node and what became of it: the journal under all tasks, the spool over it, and what is read and moved."""
