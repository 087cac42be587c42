"""Enqueues from Python through this machine's node for BENCH_SECONDS: one call after the other, or BENCH_TOGETHER in a call."""

import json
import os
import time

from spoolnode import send_many, send_to_spooler

TASK = {"Name": "Serena", "System": "Linux", "Tizio": "Caio"}

for _ in range(50):
    send_to_spooler(TASK)
together = int(os.environ["BENCH_TOGETHER"])
count = 0
start = now = time.perf_counter()
end = start + float(os.environ["BENCH_SECONDS"])
while now < end:
    if together == 1:
        send_to_spooler(TASK)
    else:
        send_many([TASK] * together)
    count += together
    now = time.perf_counter()

result = os.environ["BENCH_RESULT"]
with open(result + ".tmp", "w") as file:
    json.dump({"ok": count, "seconds": now - start}, file)
os.rename(result + ".tmp", result)
