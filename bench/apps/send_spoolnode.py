"""Enqueues from Python through this machine's node, one call after the other, for BENCH_SECONDS."""

import json
import os
import time

from spoolnode import send_to_spooler

TASK = {"Name": "Serena", "System": "Linux", "Tizio": "Caio"}

for _ in range(50):
    send_to_spooler(TASK)
count = 0
start = now = time.perf_counter()
end = start + float(os.environ["BENCH_SECONDS"])
while now < end:
    send_to_spooler(TASK)
    count += 1
    now = time.perf_counter()

result = os.environ["BENCH_RESULT"]
with open(result + ".tmp", "w") as file:
    json.dump({"ok": count, "seconds": now - start}, file)
os.rename(result + ".tmp", result)
