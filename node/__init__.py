"""One machine: listener, spool, workers, schedule, retries, control.

Knows `protocol`. Where a task should go it learns from an object handed to it (`route(task)`), never from `cluster`.
"""
