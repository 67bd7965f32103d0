"""How we compare: data, models, the common trainer, measuring, records and boards."""

import sys

if sys.argv[:1] == ["-m"]:  # of `python -m benchmarks.X` this package is imported first
    from benchmarks.storage.entry_point import require_command

    require_command(sys.orig_argv)
