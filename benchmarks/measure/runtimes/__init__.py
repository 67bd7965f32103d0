"""What can execute a network: one file each. Adding one is a file, and its class in the list below."""

from benchmarks.measure.runtimes.compiled import Compile
from benchmarks.measure.runtimes.eager import Eager
from benchmarks.measure.runtimes.onnx import OnnxRuntime
from benchmarks.measure.runtimes.openvino import OpenVino
from benchmarks.measure.runtimes.runtime import Conditions, Run, Runtime
from benchmarks.measure.runtimes.sparse import SparseCsr
from benchmarks.measure.runtimes.sparse_2_4 import Sparse24

RUNTIMES: dict[str, type[Runtime]] = {
    runtime.name: runtime for runtime in (Eager, Compile, OnnxRuntime, OpenVino, SparseCsr, Sparse24)
}

__all__ = ["RUNTIMES", "Conditions", "Run", "Runtime"]
