"""Tasks on an engine that several nodes share: a page of interface, its drivers, and the bridge from a spool directory."""
