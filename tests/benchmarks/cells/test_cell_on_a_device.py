"""Training, and a whole cell, on the device that ``pytest --device`` names."""

import pytest
import torch
from networks import make, noise, uniform, whole_numbers

from benchmarks.cells import cell
from benchmarks.data.splits import Data, Split
from benchmarks.settings.home import CONF
from benchmarks.sweeps.composition import Composer
from benchmarks.training.optimisation import TrainerSettings
from benchmarks.training.trainer import evaluate, fit


def toy(count=96):
    parts = [Split(noise(count, 1, 8, 8, seed=seed), whole_numbers(4, count, seed=seed)) for seed in range(3)]
    return Data("toy", *parts, 4, (1, 8, 8))


@pytest.mark.parametrize("network", ["chain", "batch_norm"])
def test_training_is_that_of_the_cpu_but_for_rounding(network, accelerator):
    found = {}
    for where in ("cpu", accelerator):
        model = make(network)
        mask = {"1.weight": uniform(20, 64) < 0.5} if network == "chain" else {}
        settings = TrainerSettings(epochs=2, batch_size=32, learning_rate=0.01, accelerator=where)
        history = fit(model, toy(), settings, 0, masks=mask)
        found[where] = (model.cpu(), history.epochs[-1]["train_loss"], evaluate(model.cpu(), toy().test).loss)
        for name, kept in mask.items():
            assert not bool(model.get_parameter(name)[~kept].any())
    (one, first, before), (two, second, after) = found["cpu"], found[accelerator]
    assert first == pytest.approx(second, rel=1e-3) and before == pytest.approx(after, rel=1e-2)
    for expected, parameter in zip(one.parameters(), two.parameters(), strict=True):
        torch.testing.assert_close(parameter.detach(), expected.detach(), rtol=1e-2, atol=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["spectral", "magnitude_edge"])
def test_a_cell_trains_prunes_and_measures(method, accelerator, tmp_path):
    words = [f"method={method}", "trainer=tiny", "dataset.limit=300", "track=none", "calibration.samples=64"]
    words += [f"trainer.{part}.accelerator={accelerator}" for part in ("train", "finetune")]
    words += ["measure=none", f"paths.results={tmp_path}/results", f"paths.cache={tmp_path}/cache"]
    record = cell.run(Composer(CONF).cell(words))
    assert record.status == "done", record.reason
    dense, tuned = record.metrics.dense, record.metrics.tuned
    assert tuned.nonzero < dense.nonzero and tuned.macs_effective < dense.macs_effective
    assert len(record.history["train"]) and all(row["train_loss"] > 0 for row in record.history["finetune"])
