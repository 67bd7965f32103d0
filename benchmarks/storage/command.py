"""How a command of the suite ends: a message for the user instead of a traceback, and an honest exit code."""

import os
import sys
from collections.abc import Callable
from typing import NoReturn

from benchmarks.storage.console import printable
from methods.errors import BadInput

INTERRUPTED = 130


def end(main: Callable[[], int]) -> NoReturn:
    """Run ``main`` and leave the process with its exit code; 1 and a plain message when the input was bad."""
    try:
        code = main()
        sys.stdout.flush()
    except (BadInput, OSError) as error:
        if isinstance(error, BrokenPipeError):  # the reader, `head` for instance, has seen enough
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            sys.exit(0)
        sys.stderr.write(f"{printable(str(error))}\n")
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
    sys.exit(code)
