"""OpenVINO, a common way to deploy networks on Intel processors; an optional extra."""

import sys
from typing import ClassVar

from torch import Tensor, nn

from benchmarks.measure.runtimes.runtime import Conditions, Run, Runtime, placed

HINTS: dict[str, str] = {"float32": "f32", "bfloat16": "bf16"}


class OpenVino(Runtime):
    """OpenVINO on the CPU; for ``bfloat16`` OpenVINO converts the network itself."""

    name = "openvino"
    packages = ("openvino",)
    install = 'pip install "secateurs[openvino]"'
    precisions: ClassVar[tuple[str, ...]] = tuple(HINTS)

    def prepare(self, model: nn.Module, inputs: Tensor, conditions: Conditions) -> Run:
        """A run of the converted network on prepared inputs."""
        sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]  # it sends telemetry at import
        import openvino

        model, inputs = placed(model, inputs, Conditions(conditions.threads))
        converted = openvino.convert_model(model, example_input=inputs, input=list(inputs.shape))
        settings = {
            "INFERENCE_NUM_THREADS": conditions.threads,
            "NUM_STREAMS": 1,
            "INFERENCE_PRECISION_HINT": HINTS[conditions.precision],
        }
        compiled = openvino.Core().compile_model(converted, "CPU", settings)
        request = compiled.create_infer_request()
        feed = inputs.numpy()
        return lambda: list(request.infer([feed]).values())
