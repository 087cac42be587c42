"""What waits for other nodes, the moves between there and here, and the directory of one node put together. Over the spool."""
