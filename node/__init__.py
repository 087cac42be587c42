"""One machine: listener, spool, workers, schedule, retries, control.

It knows `protocol`. Where a task should go, it asks an object that is passed in (`neighbours`), and never `cluster` itself.
"""
