"""Enqueues from Python inside uWSGI (a mule), one call after the other, for BENCH_SECONDS."""

import json
import os
import time

import uwsgi

TASK = {b"Name": b"Serena", b"System": b"Linux", b"Tizio": b"Caio"}

send = uwsgi.send_to_spooler
for _ in range(50):
    send(TASK)
count = 0
start = now = time.perf_counter()
end = start + float(os.environ["BENCH_SECONDS"])
while now < end:
    send(TASK)
    count += 1
    now = time.perf_counter()

result = os.environ["BENCH_RESULT"]
with open(result + ".tmp", "w") as file:
    json.dump({"ok": count, "seconds": now - start}, file)
os.rename(result + ".tmp", result)
time.sleep(3600)  # a mule that ends is started again
