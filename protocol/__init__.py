"""Bytes <-> meaning: uwsgi packets, answers, spool files, batch records, values and names.

Nothing here knows a socket, a file, a clock or a thread: bytes go in, events and bytes come out. Everything else in
spoolnode may import this package; this package imports nothing but msgpack.
"""
