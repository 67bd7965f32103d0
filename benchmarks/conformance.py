"""Check that a method does what every method must: ``python -m benchmarks.conformance method=mine``.

The method is a preset of ``conf/method``, or of the folder that ``SECATEURS_CONF`` names. Its options may follow as for
``python run.py``, and ``stochastic=true`` (another seed has to give another result) or ``stochastic=false``. The exit
code is 0 if every check passes.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from benchmarks.storage.entry_point import end
from methods.errors import BadInput

SWITCH = {"true": True, "false": False}


def main(arguments: Sequence[str] | None = None) -> int:
    """The command ``python -m benchmarks.conformance``."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if not words or any(word in ("-h", "--help") for word in words):
        sys.stdout.write(f"{__doc__}")
        return 0
    named, stochastic, others = None, None, []
    for word in words:
        key, equals, value = word.partition("=")
        if key == "method" and equals:
            named = value
        elif key == "stochastic" and value in SWITCH:
            stochastic = SWITCH[value]
        elif equals and key != "stochastic":
            others.append(word)
        else:
            raise BadInput(f"cannot read '{word}'; expected method=NAME, stochastic=true, or an option KEY=VALUE")
    if not named or "," in named:
        raise BadInput("expected one method; type for instance python -m benchmarks.conformance method=spectral")
    from secateurs.testing import check_method

    report = check_method(named, overrides=others, stochastic=stochastic, on_fail="report")
    sys.stdout.write(f"{report}\n")
    return 0 if report.passed else 1


if __name__ == "__main__":
    end(main)
