"""Lets tests import the programs of preprocessing/, which are run as files."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[3] / "preprocessing"))
