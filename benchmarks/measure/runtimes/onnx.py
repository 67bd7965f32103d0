"""ONNX Runtime, a common way to deploy networks; the export to ONNX is shared with ``benchmarks.export``."""

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
from methods.errors import BadInput

INPUT = "input"


class OnnxRuntime(Runtime):
    """ONNX Runtime on the CPU, with all graph optimisations on."""

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
    """The network in the ONNX format, by PyTorch's ``torch.export``-based exporter (not the tracing one).

    Args:
        model: a network in evaluation mode.
        inputs: example inputs.
        any_batch: whether the file should accept any batch size, not just that of the example.

    Raises:
        BadInput: ``any_batch`` is set, and the exporter took the batch size for a constant.
    """
    if not any_batch:
        return exported(model, (inputs,), {}, None, [INPUT])
    if len(inputs) < 2:
        inputs = torch.cat([inputs, inputs])  # the exporter takes a size of 1 for a constant
    content = exported(model, (inputs,), {}, ({0: torch.export.Dim.DYNAMIC},), [INPUT])
    require_any_batch(content)
    return content


def require_any_batch(content: bytes) -> None:
    """Check that an ONNX file takes any number of samples.

    Where a forward pass uses ``len(x)`` or ``int(x.shape[0])``, or loops over the samples, PyTorch's exporter can only
    use the example's number of samples, and falls back to a graph for that number.

    Raises:
        BadInput: the file takes only one number of samples.
    """
    import onnx

    sizes = {each.name: each.type.tensor_type.shape.dim for each in onnx.load_from_string(content).graph.input}
    fixed = {name: own[0].dim_value for name, own in sizes.items() if len(own) and not own[0].dim_param}
    if fixed:
        name, size = next(iter(fixed.items()))
        raise BadInput(
            f"PyTorch's exporter took the number of samples of {name} for the constant {size}: the forward pass asks "
            f"for it as a plain number (len({name}), int({name}.shape[0]), a loop over samples); {name}.shape[0] works"
        )


def exported(
    model: nn.Module,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    shapes: Any = None,
    names: Sequence[str] | None = None,
) -> bytes:
    """Export a network with any arguments, as :func:`to_onnx` does.

    Args:
        model: a network in evaluation mode.
        args: example arguments by position.
        kwargs: example arguments by keyword.
        shapes: which sizes are free, in the form of the argument ``dynamic_shapes`` of ``torch.onnx.export``.
        names: names of the inputs in the file; None to use those of the arguments.
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


def cause_of(error: BaseException) -> BaseException:
    """The root cause of an error: PyTorch's exporter begins its own message with advice on debugging."""
    while error.__cause__ is not None:
        error = error.__cause__
    return error


def open_session(content: bytes, threads: int = 1) -> Any:
    """An inference session of ONNX Runtime on the CPU, without telemetry."""
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"  # read at import; calling the function of that name later does not help
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
