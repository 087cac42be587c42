"""Hypothesis for these tests."""

import os

from hypothesis import settings

settings.register_profile("cluster", deadline=None, derandomize="CI" in os.environ, print_blob=True)
settings.load_profile("cluster")
