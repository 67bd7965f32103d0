"""The Hydra application, as `python run.py` and Python code call it.

All features of Hydra are available: its options, launchers, callbacks, and third-party sweepers. What is ours is the
task (:func:`benchmarks.sweeps.sweep.task`) and the sweeper ``secateurs``, which conf/config.yaml chooses.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import hydra
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import ConfigCompositionException
from omegaconf import DictConfig

from benchmarks.settings.home import CONF, ROOT
from benchmarks.sweeps.composition import VERSION_BASE, Composer
from benchmarks.sweeps.explaining import Explained
from benchmarks.sweeps.request import Call, CellFailed, Outcome, Request, carrying_out, hydra_raises
from benchmarks.sweeps.words import concerns_hydra
from methods.errors import BadInput


def job(config: DictConfig) -> float | tuple[float, ...] | None:
    """Run the task, imported only now, so that help and mistakes are answered quickly."""
    from benchmarks.sweeps.sweep import task

    return task(config)


def run(request: Request) -> Outcome:
    """Carry out ``request`` as the command line does, with its output; returns the records of its cells.

    Raises:
        BadInput: the command is wrong, or a folder cannot be written; nothing has been run.
        SystemExit: an option such as ``--help`` was all that was asked for.
        KeyboardInterrupt: finished cells are kept.
    """
    with carrying_out(request) as call:
        carry_out(call)
        return call.outcome


def carry_out(call: Call) -> None:
    """Hand a call over to Hydra, and leave in it what came out."""
    request = call.request
    GlobalHydra.instance().clear()  # a notebook may have initialised it; Hydra allows one application per process
    before = HydraConfig.instance().cfg
    words = [*request.words, *(["dry_run=true"] if request.dry_run else [])]
    options = [*request.flags, *(["--multirun"] if request.multirun else [])]
    start = hydra.main(config_path=str(CONF.resolve()), config_name=ROOT, version_base=VERSION_BASE)(job)
    try:
        with _typed([*options, *words]), hydra_raises(call), _in_our_words(request):
            try:
                start()
            except SystemExit:
                if call.error is not None:
                    raise call.error from None
                raise
    except CellFailed:  # which is concluded, or will be
        call.outcome.code = 1
    finally:
        HydraConfig.instance().cfg = before
        if call.at_end is not None:
            call.at_end()


@contextmanager
def _typed(arguments: Sequence[str]) -> Iterator[None]:
    """Set ``sys.argv``, from which Hydra reads its arguments, to ``arguments``."""
    before = sys.argv
    sys.argv = [before[0] or "run.py", *arguments]
    try:
        yield
    finally:
        sys.argv = before


@contextmanager
def _in_our_words(request: Request) -> Iterator[None]:
    """Turn Hydra's errors into readable messages; for an unknown option, composing the cell again gives the best."""
    with Explained(CONF, request.words):
        try:
            yield
        except (BadInput, ConfigCompositionException, OSError) as error:
            Composer(CONF).require_keys(request.words)
            if isinstance(error, ConfigCompositionException) and not request.multirun:
                Composer(CONF).cell([word for word in request.words if not concerns_hydra(word)])
            raise
