"""The story of each task: what happened to it and when, in a database beside the spool, also after its end."""
