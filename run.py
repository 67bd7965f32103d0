"""The command line of Secateurs: `python run.py method=spectral`, `python run.py -m method=spectral,dpp seed=0,1,2`."""

import sys

from benchmarks.sweeps.run_command import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
