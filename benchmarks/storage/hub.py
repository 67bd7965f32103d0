"""Check whether the Hugging Face hub can be reached.

Its libraries ask a hub that does not answer six times, for half a minute, and would do so for every cell. So it is
tried once per process and repository; where it does not answer, only earlier downloads are used.
"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Literal

from methods.errors import first_line

SECONDS = 5.0  # for which an answer is waited for


@functools.cache
def unreachable(repository: str, kind: Literal["dataset", "model"] = "dataset") -> str | None:
    """Why the hub does not answer requests for ``repository``; None if it answers, even with a refusal."""
    if Path(repository).exists():  # a folder in the hub's layout is as good
        return None
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    try:
        HfApi().repo_info(repository, repo_type=kind, timeout=SECONDS)
    except (HfHubHTTPError, HFValidationError):  # no name of a repository: nobody was asked
        return None
    except Exception as error:  # of the HTTP library, which is not always the same one
        return f"it does not answer ({first_line(error, 120)})"
    return None
