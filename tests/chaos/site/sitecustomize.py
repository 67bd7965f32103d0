"""Makes any Python process that has this folder on its path die, without a word, when it opens a certain file.

CHAOS_PATH: a part of the file's path. CHAOS_ONCE: a file whose creation is the permission to die; else each time.
"""

import os
import sys

PART, ONCE = os.environ.get("CHAOS_PATH"), os.environ.get("CHAOS_ONCE")


def die(event, arguments):
    if event == "open" and isinstance(arguments[0], str) and PART in arguments[0]:
        if ONCE:
            try:
                os.close(os.open(ONCE, os.O_CREAT | os.O_EXCL))
            except FileExistsError:
                return
        os._exit(9)


if PART:
    sys.addaudithook(die)
