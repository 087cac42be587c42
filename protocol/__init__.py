"""Bytes <-> meaning: uwsgi packets, answers, spool files, batch records, values and names.

Nothing here touches a socket, a file, a clock or a thread: bytes go in, events and bytes come out. Every other part of
spoolnode may import this package. It imports only msgpack.
"""
