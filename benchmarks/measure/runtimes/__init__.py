"""Runtimes that can execute a network: one file each, imported when used. To add one, add a file and a line below."""

from __future__ import annotations

import importlib
from collections.abc import Iterator, MutableMapping

from benchmarks.measure.runtimes.runtime import Conditions, Run, Runtime

WHERE = {
    "eager": "eager.Eager",
    "compile": "compiled.Compile",
    "onnxruntime": "onnx.OnnxRuntime",
    "openvino": "openvino.OpenVino",
    "sparse_csr": "sparse.SparseCsr",
    "sparse_2_4": "sparse_2_4.Sparse24",
}


class Runtimes(MutableMapping[str, type[Runtime]]):
    """The runtimes by name."""

    def __init__(self) -> None:
        self._loaded: dict[str, type[Runtime] | None] = dict.fromkeys(WHERE)

    def __getitem__(self, name: str) -> type[Runtime]:
        runtime = self._loaded[name]
        if runtime is None:
            module, _, last = WHERE[name].rpartition(".")
            runtime = getattr(importlib.import_module(f"{__name__}.{module}"), last)
            self._loaded[name] = runtime
        return runtime

    def __setitem__(self, name: str, runtime: type[Runtime]) -> None:
        self._loaded[name] = runtime

    def __delitem__(self, name: str) -> None:
        del self._loaded[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._loaded)

    def __len__(self) -> int:
        return len(self._loaded)


RUNTIMES = Runtimes()

__all__ = ["RUNTIMES", "Conditions", "Run", "Runtime"]
