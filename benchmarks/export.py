"""Export the pruned network of a cell as a file to deploy, checked against the network itself.

    python run.py method=spectral budget.speedup=4 save=true
    python -m benchmarks.export key=1f0c format=onnx

``key`` is the cell's key, or as much of its beginning as is needed to tell it from others. Formats: ``onnx`` (any
batch size, for ONNX Runtime), ``torch_export`` (for ``torch.export.load``) and ``safetensors`` (weights and a
description, for ``benchmarks.export.load_network``). ``test=true`` also runs the data set's test split and compares the
predictions; images of your own are found with ``dataset.source=FOLDER``.
"""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from benchmarks.measure.latency import time_pairs
from benchmarks.measure.lock import one_at_a_time
from benchmarks.measure.runtimes.eager import in_inference_mode
from benchmarks.measure.runtimes.onnx import OnnxRuntime, cause_of, open_session, to_onnx
from benchmarks.measure.size import measure_size
from benchmarks.models.saved import DESCRIPTION, WEIGHTS, load_network, network_folder, probe, read_network, tokens_in
from benchmarks.storage.console import output_console
from benchmarks.storage.entry_point import end
from benchmarks.storage.paths import Paths, remove_temporaries, write_atomically
from methods.errors import BadInput, first_line

if TYPE_CHECKING:
    from benchmarks.data.splits import Split

__all__ = ["Exported", "export", "load_network", "main"]

Predict = Callable[[Tensor], Tensor]
Contents = dict[str, bytes]  # of the files to write, by suffix or name
TOLERANCE = 1e-4  # of outputs, relative to the largest
OPTIONS = {
    "key": "of the cell (or the beginning of it)",
    "format": "onnx, torch_export or safetensors",
    "output": "folder to write to: exports",
    "paths.results": "folder of the results: results",
    "paths.cache": "folder of the decoded data sets: .cache",
    "test": "true: compare predictions on the data set's test split",
    "dataset.source": "with test=true: folder of the data set, where it is your own",
    "batch": "batch size of the latency: 1",
}


@dataclass(frozen=True)
class Exported:
    """What was written, and what it computes.

    Attributes:
        path: the file, or folder, that was written.
        predict: computes outputs from inputs with what was written.
        bytes: its size on disk.
        difference: largest difference of its outputs from the network's, relative to the largest output.
    """

    path: Path
    predict: Predict
    bytes: int
    difference: float


def export(folder: Path, kind: str, target: Path) -> Exported:
    """Write the network in ``folder`` in the format ``kind``, after checking what is about to be written.

    Args:
        folder: the folder of a kept network.
        kind: ``onnx``, ``torch_export`` or ``safetensors``.
        target: path of the new file without its suffix; for ``safetensors`` a folder.

    Raises:
        BadInput: unknown format, a package that is missing, or a network that the format cannot express.
    """
    if kind not in FORMATS:
        raise BadInput(f"format={kind} is unknown; choose from {', '.join(FORMATS)}")
    if kind == "onnx" and (missing := OnnxRuntime.missing()):
        raise BadInput(f"format=onnx needs {', '.join(missing)}, not installed here; type {OnnxRuntime.install}")
    description, _ = read_network(folder)
    network = load_network(folder)
    inputs = probe(description["shape"], 8, tokens_in(description))
    try:
        contents, predict = FORMATS[kind](folder, network, inputs)
    except (BadInput, OSError):
        raise
    except Exception as error:  # exporters may raise anything
        cause = cause_of(error)
        reason = f"{type(cause).__name__}: {first_line(cause)}"
        raise BadInput(f"format={kind} cannot express this network: {reason}") from error
    for number in (len(inputs), 1):  # an exporter may have fixed the batch size to that of the example
        expected = in_inference_mode(network, inputs[:number])()
        found = predict(inputs[:number]).detach()
        difference = float((found - expected).abs().max() / expected.abs().max().clamp(min=1e-6))
        if not difference <= TOLERANCE:
            raise BadInput(
                f"format={kind}: the file's outputs are off by {difference:.2g} (relative); nothing was written"
            )
    for suffix, content in contents.items():
        path = target / suffix if kind == "safetensors" else target.with_name(target.name + suffix)
        remove_temporaries(path.parent)
        write_atomically(path, content)
    total = sum(len(content) for content in contents.values())
    return Exported(target if kind == "safetensors" else path, predict, total, difference)


def _onnx(_folder: Path, network: nn.Module, inputs: Tensor) -> tuple[Contents, Predict]:
    content = to_onnx(network, inputs, any_batch=True)
    session = open_session(content)
    name = session.get_inputs()[0].name
    return {".onnx": content}, lambda x: torch.from_numpy(session.run(None, {name: x.numpy()})[0])


def _torch_export(_folder: Path, network: nn.Module, inputs: Tensor) -> tuple[Contents, Predict]:
    program = torch.export.export(network, (inputs,), dynamic_shapes=({0: torch.export.Dim.DYNAMIC},))
    buffer = io.BytesIO()
    torch.export.save(program, buffer)
    content = buffer.getvalue()
    return {".pt2": content}, _without_gradients(torch.export.load(io.BytesIO(content)).module())


def _safetensors(folder: Path, network: nn.Module, _inputs: Tensor) -> tuple[Contents, Predict]:
    # The description comes last: without it there is no network.
    return {name: (folder / name).read_bytes() for name in (WEIGHTS, DESCRIPTION)}, _without_gradients(network)


def _without_gradients(network: nn.Module) -> Predict:
    def predict(x: Tensor) -> Tensor:
        with torch.inference_mode():
            return network(x)

    return predict


FORMATS: dict[str, Callable[[Path, nn.Module, Tensor], tuple[Contents, Predict]]] = {
    "onnx": _onnx,
    "torch_export": _torch_export,
    "safetensors": _safetensors,
}


def find_network(results: Path, key: str) -> Path:
    """The folder of the kept network whose key begins with ``key``.

    Raises:
        BadInput: there is none, or more than one.
    """
    root = network_folder(results, "")
    found = sorted(path.parent for path in root.glob(f"*/{DESCRIPTION}") if path.parent.name.startswith(key))
    if len(found) == 1:
        return found[0]
    if found:
        raise BadInput(f"key={key} fits {', '.join(path.name for path in found)}; give more of it")
    records = sorted(path.stem for root in ("runs", "cells") for path in (results / root).glob(f"*/*/{key}*.json"))
    if records:
        raise BadInput(
            f"the network of {records[0]} was not kept; run its cell again with save=true:\n"
            f"python run.py {_words(results, records[0])} save=true"
        )
    kept = ", ".join(sorted(path.parent.name for path in root.glob(f"*/{DESCRIPTION}"))[:5])
    raise BadInput(f"no cell has key={key}; networks kept in {root}: {kept or 'none'}")


def _words(results: Path, key: str) -> str:
    """The command-line words of the cell ``key``, where a sweep has stored them."""
    from benchmarks.records.manifest import read_manifests

    manifests, _ = read_manifests(results / "runs")
    return next((" ".join(cell.overrides) for m in manifests for cell in m.cells if cell.key == key), "<ITS OPTIONS>")


def parse(words: Sequence[str]) -> dict[str, str]:
    """The options ``KEY=VALUE`` in ``words``."""
    options = {"output": "exports", "paths.results": "results", "test": "false", "batch": "1"}
    options["paths.cache"] = os.environ.get("SECATEURS_CACHE", ".cache")
    for word in words:
        name, equals, value = word.partition("=")
        if not equals or name not in OPTIONS:
            raise BadInput(f"cannot read '{word}'; expected KEY=VALUE with KEY one of {', '.join(OPTIONS)}")
        options[name] = value
    for name in ("key", "format"):
        if not options.get(name):
            raise BadInput(f"{name} is missing; type {name}={'onnx' if name == 'format' else 'KEY'} ({OPTIONS[name]})")
    if options["test"] not in ("true", "false"):
        raise BadInput(f"test={options['test']} is neither true nor false; type test=true")
    if not options["batch"].isdecimal() or int(options["batch"]) < 1:
        raise BadInput(f"batch={options['batch']}; expected a number of at least 1")
    return options


def split_of(paths: Paths, key: str, source: str | None = None) -> Split:
    """The test split of the cell ``key``.

    Args:
        paths: the paths of its record and of the decoded data.
        key: the key of the cell.
        source: folder of the data set; a record does not say where it lay.

    Raises:
        BadInput: the record or the folder is not there, or the folder holds other data than the cell has seen.
    """
    from benchmarks.data.splits import load
    from benchmarks.records.store import Store

    record = Store.of(paths).find(key, committed=True)
    if record is None:
        raise BadInput(f"test=true needs the record of {key} in {paths.results}, which is not there")
    dataset = dict(record.config["dataset"])
    own = str(dataset.get("reader")).endswith(".imagefolder")
    if own and not source:
        raise BadInput(f"test=true needs the images of {dataset['name']}\ntype dataset.source=FOLDER")
    if source:
        dataset["source"] = source
    data = load(dataset, record.config["seed"], paths.cache)
    seen = record.fingerprint.get("data")
    if source and seen is not None and seen != data.checksum:
        raise BadInput(f"dataset.source={source} does not hold what the cell {key} has seen; give the folder it had")
    return data.test


def same_predictions(name: str, network: nn.Module, predict: Predict, split: Split) -> str:
    """How many samples of ``split`` get the same class from the file and from the network, in words."""
    eager, same, total = _without_gradients(network), 0, 0
    for x, _ in split.batches(256):
        classes = eager(x).argmax(-1)
        same += int((classes == predict(x).argmax(-1)).sum())
        total += classes.numel()
    what = "samples" if total == len(split) else "tokens"
    return f"{same} of {total} test {what} of {name} get the same class"


def main(arguments: Sequence[str] | None = None) -> int:
    """The command ``python -m benchmarks.export``."""
    words = sys.argv[1:] if arguments is None else list(arguments)
    if not words or any(word in ("-h", "--help") for word in words):
        sys.stdout.write(f"{__doc__}\n" + "".join(f"  {name}=  {text}\n" for name, text in OPTIONS.items()))
        return 0
    options = parse(words)
    paths = Paths.of({"results": options["paths.results"], "cache": options["paths.cache"]})
    folder = find_network(paths.results, options["key"])
    split = split_of(paths, folder.name, options.get("dataset.source")) if options["test"] == "true" else None
    exported = export(folder, options["format"], Path(options["output"]).expanduser() / folder.name)
    network, (description, _) = load_network(folder), read_network(folder)
    inputs = probe(description["shape"], int(options["batch"]), tokens_in(description))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with one_at_a_time():
            timed = time_pairs(in_inference_mode(network, inputs), lambda: exported.predict(inputs), pairs=20)
    finally:
        torch.set_num_threads(threads)
    plain = measure_size(network).bytes
    say = output_console().print
    say(f"{exported.path}: {exported.bytes:,} bytes ({plain:,} as weights alone)", markup=False, highlight=False)
    say(f"outputs differ from the network's by at most {exported.difference:.1e} (relative)", highlight=False)
    say(
        f"batch {len(inputs)}, one thread: {timed['pruned_ms']:.3g} ms; {timed['dense_ms']:.3g} ms in eager PyTorch",
        highlight=False,
    )
    if split is not None:
        say(same_predictions(description["dataset"], network, exported.predict, split), highlight=False)
    return 0


if __name__ == "__main__":
    end(main)
