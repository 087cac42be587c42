"""Fixtures for the tests of discovery."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))  # netns.py, which all tests of the cluster use
