"""Where configurations lie, and the parts of a method that they choose."""

import os
from pathlib import Path

from benchmarks.storage.paths import REPOSITORY

CONF = Path(os.environ.get("SECATEURS_CONF", REPOSITORY / "conf"))
ROOT = "config"  # the name of the root configuration in that folder
PARTS = ("selection", "allocation", "compensation", "schedule")
