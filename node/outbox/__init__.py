"""Tasks that wait for other nodes, their moves, and the storage of one node put together. Above the spool."""
