"""Tasks on an engine that several nodes share: a page of interface and its drivers."""
