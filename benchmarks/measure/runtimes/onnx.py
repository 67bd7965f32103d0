"""ONNX Runtime, as networks are deployed; the export to ONNX is shared with ``benchmarks.export``."""

import contextlib
import io
import logging
import os
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.measure.runtimes.runtime import Conditions, Run, Runtime, placed

INPUT = "input"


class OnnxRuntime(Runtime):
    """ONNX Runtime on the CPU, all graph optimisations on."""

    name = "onnxruntime"
    packages = ("onnx", "onnxscript", "onnxruntime")
    install = 'pip install "secateurs[onnx]"'

    def prepare(self, model: nn.Module, inputs: Tensor, conditions: Conditions) -> Run:
        """A run of the exported network on prepared inputs."""
        model, inputs = placed(model, inputs, conditions)
        session = open_session(to_onnx(model, inputs), conditions.threads)
        feed = {session.get_inputs()[0].name: inputs.numpy()}
        return lambda: session.run(None, feed)


def to_onnx(model: nn.Module, inputs: Tensor, any_batch: bool = False) -> bytes:
    """The network in the ONNX format, by PyTorch's exporter of graphs (not the one by tracing).

    Args:
        model: a network in evaluation mode.
        inputs: example inputs.
        any_batch: whether the file should accept any batch size, not just that of the example.
    """
    if any_batch and len(inputs) < 2:
        inputs = torch.cat([inputs, inputs])  # the exporter takes a size of 1 for a constant
    return exported(model, (inputs,), {}, ({0: torch.export.Dim.DYNAMIC},) if any_batch else None, [INPUT])


def exported(
    model: nn.Module,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    shapes: Any = None,
    names: Sequence[str] | None = None,
) -> bytes:
    """What :func:`to_onnx` gives, for a network of any arguments.

    Args:
        model: a network in evaluation mode.
        args: example arguments by position.
        kwargs: example arguments by keyword.
        shapes: which sizes are free, as ``torch.onnx.export`` wants them under ``dynamic_shapes``.
        names: of the inputs in the file; None for those of the arguments.
    """
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            program = torch.onnx.export(
                model, args, kwargs=dict(kwargs), dynamo=True, dynamic_shapes=shapes, input_names=names, verbose=False
            )
    finally:
        logger.setLevel(level)
    assert program is not None
    return program.model_proto.SerializeToString()


def open_session(content: bytes, threads: int = 1) -> Any:
    """An inference session of ONNX Runtime on the CPU that talks to nobody."""
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"  # read at import; calling the function of that name later does not help
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
