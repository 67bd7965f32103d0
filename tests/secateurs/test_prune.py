"""secateurs.prune: any network, any tensors, any method, by the presets that the command line uses."""

import copy
import subprocess
import sys
from collections import namedtuple
from pathlib import Path

import pytest
import torch
from marks import slow_but_for
from networks import calibration, make
from torch import nn

import secateurs
from benchmarks.cells.parts import build_pruner
from benchmarks.sweeps.composition import Composer
from methods.baselines.magnitude import MagnitudeSelection
from methods.budgets.budget import Budget
from methods.compensation import LeastSquares
from methods.errors import BadInput
from secateurs.presets import pruner_of

pytestmark = pytest.mark.usefixtures("device")

CONF = Path(__file__).parents[2] / "conf"
PRESETS = sorted(path.stem for path in (CONF / "method").glob("*.yaml"))
DATA = calibration(64)
Output = namedtuple("Output", ["first", "hidden"])


class Several(nn.Module):
    """Values and tokens in; what comes out depends on ``kind``."""

    def __init__(self, kind="mapping"):
        super().__init__()
        self.kind = kind
        self.values, self.tokens = nn.Linear(6, 20), nn.Embedding(50_000, 20)
        self.hidden, self.head = nn.Linear(20, 16), nn.Linear(16, 3)

    def forward(self, values, tokens, scale=1.0):
        hidden = self.hidden((self.values(values) + self.tokens(tokens)).relu()).relu()
        logits = self.head(hidden) * scale
        return {"mapping": {"loss": None, "logits": logits}, "tuple": (logits, hidden), "tensor": logits}.get(
            self.kind, Output(logits, hidden)
        )


def several(kind="mapping", n=60):
    generator = torch.Generator().manual_seed(3)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(2)
        model = Several(kind)
    values = torch.randn(n, 6, generator=generator)
    tokens = torch.randint(0, 50_000, (n,), generator=generator)
    return model, values, tokens, torch.randint(0, 3, (n,), generator=generator)


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("method", slow_but_for(PRESETS))
def test_a_preset_is_the_same_parts_as_on_the_command_line(method):
    expected = build_pruner(Composer(CONF).cell([f"method={method}"]))
    found = pruner_of(method)
    for part in ("selection", "allocation", "compensation", "schedule"):
        ours, theirs = getattr(found, part), getattr(expected, part)
        assert type(ours) is type(theirs)
        assert {k: v for k, v in vars(ours).items() if isinstance(v, int | float | str)} == {
            k: v for k, v in vars(theirs).items() if isinstance(v, int | float | str)
        }


@pytest.mark.parametrize("method", ["spectral", "dpp", "obd"])
def test_pruning_by_name_is_what_the_pruner_gives(method):
    model = make("chain")
    before = copy.deepcopy(model.state_dict())
    found = secateurs.prune(model, DATA.inputs, DATA.labels, method, keep=0.5, batch_size=40)
    expected = pruner_of(method).prune(model, DATA, Budget("keep", 0.5))
    assert same(found.model.state_dict(), expected.model.state_dict())
    assert found.achieved == expected.achieved and found.layers == expected.layers
    assert same(model.state_dict(), before)


@pytest.mark.parametrize("kind,value", [("compression", 3.0), ("speedup", 2.0), ("keep", 0.4)])
def test_budgets_are_met(kind, value):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        wide = nn.Sequential(nn.Flatten(), nn.Linear(64, 90), nn.ReLU(), nn.Linear(90, 80), nn.ReLU(), nn.Linear(80, 4))
    found = secateurs.prune(wide, DATA.inputs, DATA.labels, "spectral", **{kind: value})
    assert found.note is None
    assert found.achieved[kind] == pytest.approx(value, rel=0.01)


def test_parts_and_options_are_swapped_by_name_and_by_object():
    by_name = pruner_of("magnitude", compensation="least_squares", overrides=["selection.norm=2"])
    assert isinstance(by_name.compensation, LeastSquares) and by_name.selection.norm == 2
    repair = LeastSquares(ridge=0.1)
    by_object = pruner_of("magnitude", compensation=repair)
    assert by_object.compensation is repair and isinstance(by_object.selection, MagnitudeSelection)
    own = MagnitudeSelection(unit="edge", norm=2)
    whole = pruner_of(own, allocation="global")
    assert whole.selection is own and type(whole.allocation).__name__ == "Global"


@pytest.mark.parametrize("method", ["spectral", "magnitude", "kron_obs", "obs", "dpp"])
@pytest.mark.parametrize("form", ["tuple", "mapping"])
def test_several_inputs_and_other_outputs_give_what_one_tensor_gives(method, form):
    """The same network behind one tensor, which carries all inputs side by side, is pruned to the same weights."""
    model, values, tokens, labels = several()

    class Packed(Several):
        def forward(self, packed):
            return super().forward(packed[:, :6], packed[:, 6].long())["logits"]

    packed = copy.deepcopy(model)
    packed.__class__ = Packed
    expected = secateurs.prune(
        packed, torch.cat([values, tokens[:, None].float()], 1), labels, method, keep=0.5, seed=1
    )
    inputs = (values, tokens) if form == "tuple" else {"tokens": tokens, "values": values}
    found = secateurs.prune(model, inputs, labels, method, keep=0.5, seed=1)
    assert type(found.model) is Several and found.layers == expected.layers
    assert same(found.model.state_dict(), expected.model.state_dict())
    assert found.model(values[:2], tokens=tokens[:2])["logits"].shape == (2, 3)


@pytest.mark.parametrize("kind", ["mapping", "tuple", "named", "tensor"])
def test_the_tensor_of_an_output_is_found(kind):
    model, values, tokens, labels = several(kind)
    found = secateurs.prune(model, {"values": values, "tokens": tokens, "scale": 2.0}, labels, "magnitude", keep=0.5)
    assert found.achieved["keep"] == 0.5 and type(found.model) is Several
    assert "values" in found.left_alone  # it meets the embedding in an addition


def test_what_is_not_pruned_is_named_with_a_reason():
    found = secateurs.prune(make("residual"), DATA.inputs, DATA.labels, "magnitude", keep=0.5)
    assert "residual stream" in found.left_alone["stem"]
    model, values, tokens, labels = several()
    edges = secateurs.prune(model, (values, tokens), labels, "magnitude_edge", keep=0.5)
    assert set(edges.left_alone) == {"tokens"} and "Embedding" in edges.left_alone["tokens"]


def test_training_between_steps_sees_the_network_in_its_own_way():
    model, values, tokens, labels = several()
    seen = []

    def train(network, masks, step):
        assert type(network) is Several and masks == {}
        seen.append((step, network(values, tokens)["logits"].shape))

    found = secateurs.prune(model, (values, tokens), labels, "magnitude", schedule="iterative", keep=0.3, train=train)
    assert seen == [(step, (60, 3)) for step in range(4)] and len(found.steps) == 5


def test_fine_tuning_keeps_masks_and_learns():
    model, values, tokens, labels = several()
    labels = (values[:, 0] > 0).long()
    found = secateurs.prune(model, (values, tokens), labels, "magnitude_edge", keep=0.5)
    history = found.finetune((values, tokens), labels, epochs=30, learning_rate=0.1, validation=0, batch_size=20)
    assert history.epochs[-1]["train_loss"] < 0.5 * history.epochs[0]["train_loss"]
    assert type(found.model) is Several
    for name, mask in found.masks.items():
        weight = found.model.get_parameter(name)
        assert bool((weight[~mask] == 0).all()) and not bool(mask.all())


def test_fine_tuning_chooses_the_best_epoch_on_the_samples_that_are_given():
    found = secateurs.prune(make("chain"), DATA.inputs, DATA.labels, "magnitude", keep=0.5)
    other = calibration(32, seed=5)
    history = found.finetune(
        DATA.inputs, DATA.labels, epochs=4, learning_rate=0.3, validation=(other.inputs, other.labels), seed=1
    )
    best = max(history.epochs, key=lambda row: (row["validation_accuracy"], -row["validation_loss"]))
    with torch.no_grad():
        accuracy = (found.model.eval()(other.inputs).argmax(1) == other.labels).float().mean().item()
    assert accuracy == pytest.approx(best["validation_accuracy"]) and history.best_epoch == best["epoch"]


def test_regression_is_tuned_by_squared_error():
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(80, 64, generator=generator)
    targets = inputs[:, :4] * 2
    found = secateurs.prune(make("chain"), inputs, targets, "magnitude", keep=0.5)
    history = found.finetune(inputs, targets, epochs=30, learning_rate=0.05, batch_size=16, validation=0)
    assert history.epochs[-1]["train_loss"] < 0.5 * history.epochs[0]["train_loss"]
    assert "validation_accuracy" not in history.epochs[0]


MISTAKES = {
    "an unknown method": (dict(method="spectrall", keep=0.5), "unknown method 'spectrall'; choose from"),
    "no method": (dict(method=3, keep=0.5), "method is int; expected a preset's name"),
    "no budget": (dict(), "no budget was given; expected one of keep, compression, speedup, latency"),
    "two budgets": (dict(keep=0.5, speedup=2), "two budgets at once: keep=0.5 and speedup=2"),
    "a budget out of range": (dict(keep=2), "budget.keep=2 is outside (0, 1]"),
    "a wrong option": (dict(overrides=["selection.thetta=1"], keep=0.5), "selection.thetta"),
    "a wrong part": (dict(compensation=3, keep=0.5), "compensation is int; expected a name or an object of"),
    "parts that do not fit": (dict(method="magnitude", compensation="obs", keep=0.5), "would do nothing"),
    "labels too few": (dict(labels=torch.zeros(3), keep=0.5), "labels are (3,); expected a tensor of 64 rows"),
    "inputs of another width": (dict(inputs=torch.zeros(64, 5), keep=0.5), "cannot be called with these inputs"),
    "inputs of two lengths": (dict(inputs=(torch.zeros(64, 1), torch.zeros(3)), keep=0.5), "tensors of 3 and 64 rows"),
    "no inputs": (dict(inputs=[], keep=0.5), "inputs are list; expected a tensor (n, ...)"),
    "a schedule that trains from scratch": (dict(method="flat_minimum", keep=0.5), "prunes while it trains"),
    "a schedule that rewinds": (dict(method="lottery_ticket", keep=0.5), "initial=..."),
    "no model": (dict(model=3, keep=0.5), "model is int; expected a torch.nn.Module"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_are_told_in_a_line_or_two(mistake):
    given, message = MISTAKES[mistake]
    with pytest.raises(secateurs.BadInput) as caught:
        secateurs.prune(**{"model": make("chain"), "inputs": DATA.inputs, "labels": DATA.labels} | given)
    assert message in str(caught.value)
    assert len(str(caught.value).splitlines()) <= 2


def test_a_program_that_is_a_hydra_application_finds_its_own_again():
    from hydra import compose, initialize_config_dir

    with initialize_config_dir(str(CONF), version_base=None):
        before = compose("config", ["seed=3"]).seed
        secateurs.prune(make("chain"), DATA.inputs, DATA.labels, keep=0.5)
        assert compose("config", ["seed=3"]).seed == before == 3


def test_calibration_needs_no_positions():
    samples = secateurs.Calibration(DATA.inputs, DATA.labels, seed=0, batch_size=40)
    found = pruner_of("spectral").prune(make("chain"), samples, secateurs.Budget("keep", 0.5))
    expected = pruner_of("spectral").prune(make("chain"), DATA, secateurs.Budget("keep", 0.5))
    assert same(found.model.state_dict(), expected.model.state_dict())


def test_nothing_is_imported_before_it_is_used_and_every_name_is_there():
    code = "import sys, secateurs; print(any(m in sys.modules for m in ('torch', 'hydra', 'pandas', 'benchmarks')))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=CONF.parent)
    assert found.stdout == "False\n"
    for name in secateurs.__all__:
        assert getattr(secateurs, name).__doc__
    with pytest.raises(AttributeError, match="secateurs has no shears; it has .*prune"):
        _ = secateurs.shears


def test_pruning_before_the_training_wants_the_initial_network_and_prunes_that_one():
    model, inputs, labels = make("chain"), DATA.inputs, DATA.labels
    initial = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in initial.parameters():
            parameter.mul_(0.5)
    with pytest.raises(BadInput, match=r"initial=\.\.\."):
        secateurs.prune(model, inputs, labels, "snip", keep=0.5)
    pruned = secateurs.prune(model, inputs, labels, "snip", keep=0.5, initial=initial)
    for name, value in initial.state_dict().items():
        mask = pruned.masks.get(name)
        assert torch.equal(pruned.model.state_dict()[name], value if mask is None else value * mask)
