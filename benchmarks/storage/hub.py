"""Check whether the Hugging Face hub can be reached.

Its libraries retry six times, for half a minute, when the hub does not answer, and would do so for every cell. So the
hub is tried once per process and repository; if it does not answer, only earlier downloads are used.
"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Literal

from methods.errors import first_line

SECONDS = 5.0  # how long to wait for an answer


@functools.cache
def unreachable(repository: str, kind: Literal["dataset", "model"] = "dataset") -> str | None:
    """Why the hub does not answer requests for ``repository``; None if it answers, even with a refusal."""
    if Path(repository).exists():  # a folder in the hub's layout is as good
        return None
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    try:
        HfApi().repo_info(repository, repo_type=kind, timeout=SECONDS)
    except (HfHubHTTPError, HFValidationError):  # not a valid repository name: no request was sent
        return None
    except Exception as error:  # from the HTTP library, which varies between versions
        return f"it does not answer ({first_line(error, 120)})"
    return None
