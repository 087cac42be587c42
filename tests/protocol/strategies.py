"""Strategies of hypothesis for these tests."""

from hypothesis import strategies as st

garbage = st.binary(max_size=200)

pairs = st.tuples(st.binary(min_size=1, max_size=12), st.binary(max_size=20))
variables = st.lists(pairs, max_size=6)
"""Variables as the uwsgi protocol carries them: any bytes, no empty name, duplicates allowed."""

task_ids = st.text("ABCxyz0189._:@-", min_size=1, max_size=236)
