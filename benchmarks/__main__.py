"""``python -m benchmarks`` says which commands there are."""

import sys

from benchmarks.storage.entry_point import command_names

if __name__ == "__main__":
    sys.stderr.write(f"python -m benchmarks.X, where X is one of {', '.join(command_names())}; see --help of each\n")
    sys.exit(2)
