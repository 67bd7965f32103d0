"""OBS with the empirical Fisher: a whole pruning of MLPNet, and M-FAC's factorisation and product for many weights.

M-FAC's static algorithm, written as published, is the loop it is compared with: each gradient is passed through the
inverse of those before it.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from benchmarks.measure.side_by_side import Finding, Promise, Times, alone, alternate
from benchmarks.speeds._settings import network
from methods.budgets.budget import Budget
from methods.hessian.obs import InverseFisher, OBSCompensation, OBSSelection
from methods.layers.statistics import Calibration
from methods.pruner import Pruner
from methods.seeds import stream

DAMPING = 1e-5


def measure(quick: bool) -> Iterator[Finding]:
    """Time MLPNet at sparsity 0.95, then M-FAC."""
    yield _mlpnet(100 if quick else 1000, quick)
    yield from _mfac(*((16, 500) if quick else (512, 270_000)), quick)


def _mlpnet(samples: int, quick: bool) -> Finding:
    model = network("mlpnet", "mnist")
    random = stream(0, "speed", "mlpnet")
    images = torch.randn(samples, 1, 28, 28, generator=random)
    labels = torch.randint(10, (samples,), generator=random)
    calibration = Calibration(images, labels, torch.arange(samples))

    def ours() -> None:
        method = Pruner(OBSSelection(block="full"), compensation=OBSCompensation())
        method.prune(model, calibration, Budget("keep", 0.05))

    return Finding(
        f"MLPNet pruned to 5 % by OBS, {samples:,} gradients",
        alone(ours, runs=1 if quick else 3),
        "WoodFisher's code: 27.6 s on two cores",
        None if quick else Promise(seconds=5),
        None,
        "gradients, inverse, selection and update",
    )


def _mfac(count: int, size: int, quick: bool) -> Iterator[Finding]:
    random = stream(0, "speed", "m-fac")
    gradients = torch.randn(count, size, generator=random) * 0.05
    vector = torch.randn(size, generator=random)
    made: dict[str, InverseFisher] = {}
    recursion: dict[str, tuple[Tensor, Tensor, float]] = {}

    def factorise() -> None:
        made["ours"] = InverseFisher(gradients, DAMPING)

    def published() -> None:
        recursion["theirs"] = static_mfac(gradients, DAMPING)

    [times] = alternate(factorise, published, pairs=1 if quick else 2, warm_up=0)
    inverse = made["ours"]
    exact = inverse.product(vector.double())
    scale = exact.abs().max()
    what = f"m = {count}, d = {size:,}"
    difference = float((_product(*recursion["theirs"], vector) - exact).abs().max() / scale)
    promise = None if quick else Promise(seconds=3)
    note = f"its products differ by {difference:.1e} from ours (float64), which it computes in float32"
    yield Finding(f"M-FAC factorisation, {what}", times, "the published recursion", promise, difference < 0.05, note)
    single = inverse.product(vector)
    close = bool((single - exact).abs().max() <= 1e-3 * scale)
    product: Times = alone(lambda: inverse.product(vector), runs=3 if quick else 15)
    promise = None if quick else Promise(seconds=0.05)
    yield Finding(f"M-FAC product in float32, {what}", product, "", promise, close, "same result: as in float64")


def static_mfac(gradients: Tensor, damping: float) -> tuple[Tensor, Tensor, float]:
    """Vectors h_i = F_{i-1}^-1 g_i and denominators N + g_i^T h_i of the recursion, in the gradients' precision."""
    count = len(gradients)
    vectors, denominators = torch.zeros_like(gradients), gradients.new_zeros(count)
    for i, gradient in enumerate(gradients):
        share = (vectors[:i] @ gradient) / denominators[:i]
        vectors[i] = gradient / damping - share @ vectors[:i]
        denominators[i] = count + gradient @ vectors[i]
    return vectors, denominators, damping


def _product(vectors: Tensor, denominators: Tensor, damping: float, vector: Tensor) -> Tensor:
    return vector / damping - ((vectors @ vector) / denominators) @ vectors
