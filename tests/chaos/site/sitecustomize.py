"""Makes any Python process that has this folder on its path die, without a word, when it opens a certain file.

CHAOS_PATH: a part of the file's path. CHAOS_ONCE: a file whose creation is the permission to die; else each time.
CHAOS_WAIT: in place of dying it waits until this file is there.
"""

import os
import sys
import time

PART, ONCE, WAIT = (os.environ.get(f"CHAOS_{name}") for name in ("PATH", "ONCE", "WAIT"))


def die(event, arguments):
    if event == "open" and isinstance(arguments[0], str) and PART in arguments[0]:
        if ONCE:
            try:
                os.close(os.open(ONCE, os.O_CREAT | os.O_EXCL))
            except FileExistsError:
                return
        if not WAIT:
            os._exit(9)
        while not os.path.exists(WAIT):  # noqa: PTH110
            time.sleep(0.05)


if PART:
    sys.addaudithook(die)
