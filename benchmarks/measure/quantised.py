"""Measure the accuracy, size and speed of a network in eight bits, by ONNX Runtime's static quantisation.

Weights become signed 8-bit integers with a scale for each output channel; activations become unsigned ones with a scale
and an offset for each tensor, from the smallest and largest values on the calibration samples (Jacob et al.,
"Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference", CVPR 2018, with MinMax
ranges). The network is exported to ONNX, its batch norms are folded into the convolutions before them, and nothing is
trained.
"""

from __future__ import annotations

import copy
import logging
import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from benchmarks.measure.latency import Settings, fixed_threads, time_pairs
from benchmarks.measure.lock import one_at_a_time
from benchmarks.measure.runtimes.onnx import INPUT, OnnxRuntime, open_session, to_onnx
from benchmarks.training.scoring import evaluate
from methods.errors import BadInput, first_line
from methods.layers.statistics import Calibration
from methods.progress import track

if TYPE_CHECKING:
    from benchmarks.data.splits import Split

BATCH = 64  # calibration samples at a time; all activations of one batch are in memory at once
INT8 = "int8"


def require_installed() -> None:
    """Raise :class:`BadInput` if ONNX Runtime is not installed."""
    if missing := OnnxRuntime.missing():
        raise BadInput(
            f"quantise={INT8} needs {', '.join(missing)}, not installed here; type {OnnxRuntime.install}, or "
            "quantise=null"
        )


class Deployed(nn.Module):
    """Wrap an ONNX file as a module that can be scored like any other."""

    def __init__(self, content: bytes, threads: int = 1) -> None:
        super().__init__()
        self.session = open_session(content, threads)

    def forward(self, x: Tensor) -> Tensor:
        """The outputs for a batch of inputs, float32."""
        return torch.from_numpy(self.session.run(None, {INPUT: x.float().cpu().numpy()})[0])


def in_int8(model: nn.Module, calibration: Calibration, label: str = "") -> tuple[bytes, bytes]:
    """The network as an ONNX file in float32, and the same quantised to eight bits.

    Args:
        model: the network; it is left unchanged.
        calibration: the samples that set the ranges of activations; labels are not read.
        label: what the progress display shows.
    """
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    work = _on_the_cpu(model)
    content = to_onnx(work, calibration.inputs[:2].float().cpu(), any_batch=True)

    class Reader(CalibrationDataReader):  # type: ignore[misc]  # onnxruntime has no types
        """Gives the calibration samples, batch by batch."""

        def __init__(self) -> None:
            self.batches = iter(track(_batches(calibration), f"calibrating {label} in int8", _count(calibration)))

        def get_next(self) -> dict[str, Any] | None:
            """The next batch; None at the end."""
            batch = next(self.batches, None)
            return None if batch is None else {INPUT: batch.numpy()}

    with tempfile.TemporaryDirectory(prefix="secateurs-") as folder, _quiet():
        plain, folded, quantised = (Path(folder) / f"{name}.onnx" for name in ("plain", "folded", "quantised"))
        plain.write_bytes(content)
        quant_pre_process(str(plain), str(folded), skip_symbolic_shape=True)
        quantize_static(
            str(folded),
            str(quantised),
            Reader(),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            weight_type=QuantType.QInt8,
            activation_type=QuantType.QUInt8,
        )
        return content, quantised.read_bytes()


def measure_quantised(
    networks: Mapping[str, nn.Module],
    calibration: Calibration,
    test: Split,
    example: Tensor,
    timing: Mapping[str, Any] | None,
) -> dict[str, Any]:
    """Measure accuracy, size and latency of the dense and the pruned network in eight bits.

    Args:
        networks: ``dense`` and ``pruned``, the latter after fine-tuning.
        calibration: training samples that set the ranges.
        test: the split to score on.
        example: inputs to repeat up to a batch size.
        timing: the section ``measure.latency``; None to measure no latency.

    Returns:
        ``format``; for each network its scores and the bytes of its file in float32 and in eight bits; latency ratios
        of the dense network in float32 over the pruned one in eight bits; and a ``note`` where something is missing: a
        network that ONNX Runtime cannot quantise has a reason in place of numbers.
    """
    found: dict[str, Any] = {"format": INT8, "note": None}
    files: dict[str, tuple[bytes, bytes]] = {}
    for name, model in networks.items():
        try:
            files[name] = in_int8(model, calibration, name)
            score = evaluate(Deployed(files[name][1]), test)
        except BadInput:
            raise
        except (
            Exception
        ) as error:  # whatever an exporter or a runtime raises; the cell's other results are worth keeping
            found["note"] = f"{name}: cannot be quantised here: {type(error).__name__}: {first_line(error)}"
            return found
        scores = {"accuracy": score.accuracy, "top5": score.top5, "loss": score.loss}
        found[name] = scores | {"bytes_float": len(files[name][0]), "bytes": len(files[name][1])}
    if timing:
        found["latency"] = _latencies(files["dense"][0], files["pruned"][1], example, Settings.parse(timing))
    return found


def _latencies(dense: bytes, pruned: bytes, example: Tensor, settings: Settings) -> list[dict[str, Any]]:
    """Time dense in float32 against pruned in eight bits, both in ONNX Runtime; one row per batch size."""
    rows = []
    with fixed_threads(settings.threads):
        sessions = [open_session(content, settings.threads) for content in (dense, pruned)]
        for batch in settings.batches:
            feed = {INPUT: example[torch.arange(batch) % len(example)].float().cpu().numpy()}
            first, second = (partial(session.run, None, feed) for session in sessions)
            with one_at_a_time() as alone:
                timed = time_pairs(first, second, settings.pairs, settings.target, settings.max_seconds)
            note = [timed["note"]] if timed["note"] else []
            note += [] if alone else ["timed while another measurement ran"]
            rows.append({"runtime": INT8, "batch": batch, "threads": settings.threads, **timed})
            rows[-1]["note"] = "; ".join(note) or None
    return rows


def _on_the_cpu(model: nn.Module) -> nn.Module:
    return copy.deepcopy(model).cpu().float().eval().requires_grad_(False)


def _count(calibration: Calibration) -> int:
    return -(-len(calibration) // BATCH)


def _batches(calibration: Calibration) -> Iterator[Tensor]:
    for start in range(0, len(calibration), BATCH):
        yield calibration.inputs[start : start + BATCH].float().cpu()


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence the quantiser's advice, on the root logger, to preprocess the model, which has been done."""
    root, before = logging.getLogger(), os.environ.get("ORT_DISABLE_TELEMETRY")
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"
    level = root.level
    root.setLevel(logging.ERROR)
    try:
        yield
    finally:
        root.setLevel(level)
        if before is None:
            del os.environ["ORT_DISABLE_TELEMETRY"]
