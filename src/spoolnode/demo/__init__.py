"""`spoolnode demo`: real nodes, a few tasks, and what happens to them."""
