"""Images that worker processes read and decode while the network trains: for data that no cache holds.

Workers (of PyTorch's ``DataLoader``) turn lists of rows into raw uint8 batches and draw nothing. Which rows, in which
order and how augmented is decided in the process that asks, so that the number of workers changes nothing.
"""

from __future__ import annotations

import io
import logging
import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from benchmarks.data.decode import UnreadableImage, WrongSize, decoded_image
from benchmarks.data.sources.shelf import Shelf
from methods.errors import BadInput, first_line

LOG = logging.getLogger(__name__)
MOST_WORKERS = 8  # by default; more are asked for by number
AHEAD = 2  # batches that each worker has ready
DEATHS = 2  # of workers that are tolerated in one pass
DEAD = ("exited unexpectedly", "killed by signal")  # how DataLoader reports that a worker has died
FEW = 8  # rows that are decoded at once, in this process


class Fault(NamedTuple):
    """An image that could not be read: its row, ``corrupt``, ``size`` or ``gone``, and a sentence that says why."""

    row: int
    kind: str
    why: str


@dataclass(frozen=True)
class Decoder:
    """Rows of a shelf as pixels.

    Attributes:
        shelf: where the encoded images lie.
        shape: (C, H, W) of the pixels.
        resize: cut the largest middle part with these proportions and scale it; else another size is a fault.
    """

    shelf: Shelf
    shape: tuple[int, int, int]
    resize: bool

    def __call__(self, rows: Sequence[int]) -> tuple[Tensor, list[Fault]]:
        """(B, C, H, W) uint8 pixels, and the faults; the pixels of faulty images are zero."""
        channels, height, width = self.shape
        pixels = np.zeros((len(rows), channels, height, width), dtype=np.uint8)
        faults = []
        for place, row in enumerate(rows):
            found = self._one(row)
            if isinstance(found, Fault):
                faults.append(found)
            else:
                pixels[place] = found.transpose(2, 0, 1)
        return torch.from_numpy(pixels), faults

    def _one(self, row: int) -> np.ndarray | Fault:
        try:
            content = self.shelf.read(row)
        except FileNotFoundError:
            return Fault(row, "gone", f"{self.shelf.place(row)} has vanished since it was listed")
        except (OSError, BadInput) as error:
            return Fault(row, "gone", f"{self.shelf.place(row)} cannot be read: {first_line(error)}")
        try:
            return decoded_image(io.BytesIO(content), self.shape, self.resize)
        except UnreadableImage as error:
            return Fault(row, "corrupt", f"{self.shelf.place(row)} cannot be decoded as an image ({first_line(error)})")
        except WrongSize as error:
            return Fault(row, "size", f"{self.shelf.place(row)} is {error}")


def refused(fault: Fault) -> BadInput:
    """The error for an image that cannot be read."""
    advice = {
        "corrupt": "Mend or remove it, or leave such images out: dataset.corrupt=skip.",
        "size": "Set dataset.shape, or point dataset.source at the right data set; dataset=hub and dataset=imagefolder "
        "take images of any size.",
        "gone": "Put it back; the same command then goes on where this one stopped.",
    }
    return BadInput(f"{fault.why}.\n{advice[fault.kind]}")


class Streamed:
    """Pixels that are decoded each time they are requested.

    Args:
        decoder: the decoder of the images.
        workers: processes that decode; 0 decodes in this one. None takes as many as there are cores, eight at most.
    """

    def __init__(self, decoder: Decoder, workers: int | None = None) -> None:
        self.decoder, self.workers = decoder, workers

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W) of one image."""
        return self.decoder.shape

    def __len__(self) -> int:
        return len(self.decoder.shelf)

    def take(self, rows: Tensor) -> Tensor:
        """(B, C, H, W) uint8 pixels of some rows.

        Raises:
            BadInput: an image cannot be read.
        """
        parts = rows.split(max(FEW, -(-len(rows) // (4 * max(1, self._processes)))))
        return torch.cat(list(self.stream(parts))) if len(parts) > 1 else self._whole(self.decoder(rows.tolist()))

    def stream(self, batches: Sequence[Tensor], pin: bool = False) -> Iterator[Tensor]:
        """The pixels of several batches of rows, in their order.

        Args:
            batches: the rows of each.
            pin: put them into page-locked memory, from which a GPU copies while it computes.

        Raises:
            BadInput: an image cannot be read, or one worker after the other dies.
        """
        for found in self.decoded(batches, pin):
            yield self._whole(found)

    def decoded(self, batches: Sequence[Tensor], pin: bool = False) -> Iterator[tuple[Tensor, list[Fault]]]:
        """As :meth:`stream`, but lists the images that could not be read instead of raising an error."""
        rows = [batch.tolist() for batch in batches]
        done, deaths = 0, 0
        while done < len(rows):
            try:
                for found in self._loaded(rows[done:], pin):
                    done += 1
                    yield found
            except (RuntimeError, OSError, EOFError) as error:  # a batch that a dead worker had ready cannot be fetched
                if isinstance(error, RuntimeError) and not any(words in str(error) for words in DEAD):
                    raise
                deaths += 1
                if deaths > DEATHS:
                    raise BadInput(
                        f"{deaths} processes that decode images have died, the last one so: {first_line(error)}\n"
                        "Memory or /dev/shm may be too small for them: type dataset.workers=1, or a smaller batch_size."
                    ) from error
                LOG.warning("a process that decodes images has died (%s); others go on", first_line(error, 120))

    @staticmethod
    def _whole(found: tuple[Tensor, list[Fault]]) -> Tensor:
        pixels, faults = found
        if faults:
            raise refused(faults[0])
        return pixels

    @property
    def _processes(self) -> int:
        if multiprocessing.current_process().daemon:  # which may not have children
            return 0
        if self.workers is not None:
            return self.workers
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        return min(cores, MOST_WORKERS)

    def _loaded(self, rows: Sequence[list[int]], pin: bool) -> Iterator[tuple[Tensor, list[Fault]]]:
        workers = min(self._processes, len(rows))
        if workers == 0:
            yield from map(self.decoder, rows)
            return
        loader: DataLoader[Any] = DataLoader(
            _Batches(self.decoder),
            batch_size=None,
            sampler=rows,
            num_workers=workers,
            collate_fn=_as_it_is,
            prefetch_factor=AHEAD,
            pin_memory=pin,
            worker_init_fn=_begin,
        )
        yield from _without_its_signal(loader)


class _Batches(Dataset[tuple[Tensor, list[Fault]]]):
    """The data set that ``DataLoader`` wants: an index is a list of rows."""

    def __init__(self, decoder: Decoder) -> None:
        self.decoder = decoder

    def __getitem__(self, rows: list[int]) -> tuple[Tensor, list[Fault]]:
        return self.decoder(rows)


def _as_it_is(found: Any) -> Any:
    return found


def _begin(_worker: int) -> None:
    """Make a new worker ignore Ctrl-C, which is handled by the process that started it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _without_its_signal(loader: DataLoader[Any]) -> Iterator[Any]:
    """The loader's batches; a dead worker is noticed when one of its batches is asked for.

    ``DataLoader`` also handles SIGCHLD and then raises wherever the process happens to be, for instance in the middle
    of a training step, where no recovery is possible.
    """
    first = threading.current_thread() is threading.main_thread()
    before = signal.getsignal(signal.SIGCHLD) if first else None
    batches = iter(loader)
    if first and before is not None:
        signal.signal(signal.SIGCHLD, before)
    yield from batches
