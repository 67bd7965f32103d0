# Two commands for a new user: `make demo` and `make test`. Each sets up what it needs, in .venv, from the lock file.
PYTHON ?= python3
VENV := .venv
READY := $(VENV)/.ready
RUN := $(VENV)/bin/python

# Where byte code is not kept (many containers say so), each start of Python would compile thousands of files anew.
unexport PYTHONDONTWRITEBYTECODE

# One worker more than the cores of a small machine, since some tests wait.
WORKERS ?= 3
# One thread per test worker: several would fight for the same cores.
test suite fast chaos explore: export OMP_NUM_THREADS = 1

.PHONY: demo test suite fast chaos explore mutate lint check setup speed site clean

demo: $(READY)
	$(RUN) run.py -m method=spectral,dpp,magnitude,random compensation=none
	$(RUN) run.py -m method=spectral,dpp,magnitude,random

# Side by side: types take a minute of one core, and tests that wait leave room for them.
test: $(READY)
	@$(MAKE) --no-print-directory -j 2 lint suite

suite: $(READY)
	$(RUN) -m pytest -n $(WORKERS) --dist worksteal

fast: $(READY)
	$(RUN) -m pytest -n $(WORKERS) --dist worksteal -m "not slow"

# The faults of tests/chaos in full length: dozens of kills, refused writes and restarts, a quarter of an hour.
chaos: $(READY)
	$(RUN) -m pytest tests/chaos --long

# The property tests on examples that no run has tried; all other runs try the same ones. Again for yet others.
explore: $(READY)
	$(RUN) -m pytest -n $(WORKERS) --dist worksteal -m hypothesis --hypothesis-profile explore

# Small faults, one at a time: which does no test notice? Half an hour and more; FILES="a.py b.py" restricts it.
mutate: $(READY)
	$(RUN) -m tests.mutate --wiring
	nice -n 10 $(RUN) -m tests.mutate $(FILES)

lint: $(READY)
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(RUN) -m mypy

# The promises that every method makes, for one of yours: make check METHOD=mine
check: $(READY)
	@test -n "$(METHOD)" || { echo "name a method: make check METHOD=mine"; exit 1; }
	$(RUN) -m benchmarks.conformance method=$(METHOD)

speed: $(READY)
	$(RUN) -m benchmarks.speed

# The static site in site/, from the documents and the report. MkDocs has an environment of its own, so that the suite's
# lock stays small.
MKDOCS := .cache/mkdocs/bin/mkdocs
$(MKDOCS): docs/requirements.txt
	$(PYTHON) -m venv .cache/mkdocs
	.cache/mkdocs/bin/python -m pip --quiet --disable-pip-version-check install --requirement docs/requirements.txt
	@touch $(MKDOCS)

site: $(READY) $(MKDOCS)
	@test -f results/boards/reviewed/report.html || $(RUN) -m benchmarks.report --no-figures || true
	$(RUN) -m benchmarks.site --mkdocs $(MKDOCS) $(if $(SITE_URL),--url $(SITE_URL))

setup: $(READY)

# Packages of the lock file, which holds nothing but NAME==VERSION, as they are and two lots at a time, the one with
# torch, which takes longest, first; then pip once more, which resolves and adds what only this platform needs (torch's
# libraries for CUDA, where its wheel has them beside it). It would compile every file of every package, for longer than
# it installs; the imports compile what a cell needs, so that this does not fall to its first run, or to every run where
# byte code is not kept. The rest is compiled when used.
PIP := $(RUN) -m pip --quiet --disable-pip-version-check
IMPORTED := benchmarks.cells.cell, benchmarks.leaderboard, lightning_fabric, pandas, sklearn.datasets, wandb
$(READY): requirements.lock
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Secateurs needs Python 3.11 or newer; name one with: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1; }
	@echo "Setting up $(VENV) from requirements.lock; this takes a minute or two."
	$(PYTHON) -m venv $(VENV)
	sort -r requirements.lock | xargs -P 2 -n 22 $(PIP) install --no-compile --no-deps
	$(PIP) install --no-compile --requirement requirements.lock
	@$(RUN) -c 'import torch._dynamo' & first=$$!; $(RUN) -c 'import $(IMPORTED)' && wait $$first
	@touch $(READY)

clean:
	rm -rf $(VENV) .cache results/runs
