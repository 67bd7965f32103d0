"""Where configurations lie, and the parts of a method that they choose."""

import os
from pathlib import Path
from typing import Any

from benchmarks.storage.paths import REPOSITORY

CONF = Path(os.environ.get("SECATEURS_CONF", REPOSITORY / "conf"))
ROOT = "config"  # the name of the root configuration in that folder
PARTS = ("selection", "allocation", "compensation", "schedule")


def yaml_of(path: Path) -> dict[str, Any] | None:
    """The mapping in a file of ``conf/``; an empty one where it holds none, None where there is no such file.

    It is read as plain YAML: nothing is composed.
    """
    import yaml

    if not path.is_file():
        return None
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # ten times as fast
    content = loader(path.read_text(encoding="utf-8")).get_single_data()
    return content if isinstance(content, dict) else {}
