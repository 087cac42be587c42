"""Hypothesis for these tests: the same examples every time in CI, fresh ones on a laptop."""

import os

from hypothesis import settings

settings.register_profile("protocol", deadline=None, derandomize="CI" in os.environ, print_blob=True)
settings.load_profile("protocol")
