"""The dense network as a teacher: the loss against its formula, and that every recipe after pruning has it."""

import json

import pytest
import torch
from networks import noise, whole_numbers
from sample_records import made
from torch import nn

import secateurs
from benchmarks.boards.board import boards
from benchmarks.boards.frame import rows_of
from benchmarks.boards.provenance import provenance
from benchmarks.cells import cell
from benchmarks.data.splits import Data, Split
from benchmarks.records.keys import cell_key
from benchmarks.settings.home import CONF
from benchmarks.sweeps.composition import Composer
from benchmarks.training.distillation import Teacher, soft_loss
from benchmarks.training.optimisation import TrainerSettings
from benchmarks.training.trainer import fit
from methods.errors import BadInput

COMPOSER = Composer(CONF)


def linear(seed):
    torch.manual_seed(seed)
    return nn.Linear(5, 4)


def data():
    splits = [Split(noise(40, 5, seed=i), whole_numbers(4, 40, seed=i), levels=1.0) for i in range(3)]
    return Data("toy", *splits, 4, (5,))


def settings(**changes):
    usual = {"epochs": 1, "batch_size": 40, "learning_rate": 0.1, "momentum": 0.0, "schedule": "constant"}
    return TrainerSettings(**(usual | changes))


@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
def test_soft_loss_is_the_divergence_of_softened_softmaxes_times_the_squared_temperature(temperature):
    outputs, taught = noise(6, 4), 3 * noise(6, 4, seed=1)
    q, p = (torch.softmax(each.double() / temperature, 1) for each in (outputs, taught))
    expected = temperature**2 * (p * (p.log() - q.log())).sum(1).mean()
    assert soft_loss(outputs, taught, temperature).item() == pytest.approx(expected.item(), rel=1e-5)
    assert soft_loss(taught, taught, temperature).item() == pytest.approx(0, abs=1e-6)


def test_at_high_temperature_the_gradient_is_that_of_matching_centred_logits():
    """Section 2.1 of the paper: T^2 dC/dz = (z - v) / N for logits that are centred, as T grows."""
    outputs, taught = noise(3, 4, dtype=torch.float64).requires_grad_(), noise(3, 4, seed=1, dtype=torch.float64)
    [gradient] = torch.autograd.grad(soft_loss(outputs, taught, 200.0), outputs)
    apart = (outputs - outputs.mean(1, keepdim=True)) - (taught - taught.mean(1, keepdim=True))
    assert torch.allclose(gradient, (apart / 4 / 3).to(gradient), atol=2e-3)


def test_one_step_of_training_follows_the_weighted_loss():
    student, teacher, samples = linear(0), linear(1), data()
    start = student.weight.detach().clone()
    x, y = samples.train.to_inputs(slice(None)), samples.train.targets
    outputs = student(x)
    loss = 0.7 * nn.functional.cross_entropy(outputs, y) + 0.3 * soft_loss(outputs, teacher(x).detach(), 3.0)
    [gradient] = torch.autograd.grad(loss, student.weight)
    history = fit(student, samples, settings(), 0, teacher=Teacher(teacher, 3.0, 0.3))
    assert torch.allclose(student.weight, start - 0.1 * gradient, atol=1e-6)
    assert history.epochs[0]["train_loss"] == pytest.approx(nn.functional.cross_entropy(outputs, y).item(), rel=1e-5)


def test_the_teacher_stays_as_it_is():
    teacher = linear(1)
    before = {name: value.clone() for name, value in teacher.state_dict().items()}
    fit(linear(0), data(), settings(epochs=3), 0, teacher=Teacher(teacher, 3.0, 1.0))
    assert all(torch.equal(before[name], value) for name, value in teacher.state_dict().items())
    assert teacher.training and teacher.weight.requires_grad and teacher.weight.grad is None


def test_with_the_whole_weight_and_time_the_student_becomes_the_teacher():
    student, teacher, samples = linear(0), linear(1), data()
    samples.validation = Split(noise(0, 5), whole_numbers(4, 0), levels=1.0)  # the last epoch is what counts
    fit(student, samples, settings(epochs=400, learning_rate=1.0), 0, teacher=Teacher(teacher, 1.0, 1.0))
    x = noise(20, 5, seed=9)
    assert torch.allclose(student(x).softmax(1), teacher(x).softmax(1), atol=0.02)


def test_a_checkpoint_of_another_teacher_is_not_gone_on_with(tmp_path):
    def trained(teacher, epochs=2):
        student = linear(0)
        fit(student, data(), settings(epochs=epochs), 0, checkpoint=tmp_path / "here", teacher=teacher)
        return student.weight

    first = trained(Teacher(linear(1), 2.0, 0.5))
    assert torch.equal(trained(Teacher(linear(1), 2.0, 0.5)), first)
    other, student = trained(Teacher(linear(2), 2.0, 0.5)), linear(0)
    fit(student, data(), settings(epochs=2), 0, teacher=Teacher(linear(2), 2.0, 0.5))
    assert torch.equal(other, student.weight) and not torch.equal(other, first)


def test_keys_of_cells_without_a_teacher_stay():
    config = COMPOSER.cell(["dataset=digits"])
    older = json.loads(json.dumps(config))
    del older["trainer"]["finetune"]["distil"]
    assert cell_key(config) == cell_key(older)
    taught = COMPOSER.cell(["dataset=digits", "trainer.finetune.distil.weight=0.5"])
    warmer = COMPOSER.cell(["dataset=digits", "trainer.finetune.distil.temperature=2"])
    assert len({cell_key(each) for each in (config, taught, warmer)}) == 3


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["trainer.finetune.distil.weight=1.5"], "trainer.finetune.distil.weight=1.5 is above 1; type for instance"),
        (["trainer.finetune.distil.temperature=0"], "trainer.finetune.distil.temperature=0 is not above 0"),
        (["+trainer.train.distil.weight=0.5"], "type trainer.finetune.distil.weight=0.5"),
        (["dataset=friedman1", "trainer.finetune.distil.weight=0.5"], "friedman1 is a regression"),
    ],
)
def test_what_cannot_be_is_refused_before_any_work(words, expected, tmp_path):
    config = COMPOSER.cell([*words, f"paths.results={tmp_path}", "track=none", "measure=none"])
    with pytest.raises(BadInput, match=expected):
        cell.run(config)
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
@pytest.mark.parametrize("method", ["magnitude", "lottery_ticket"])  # fine-tuned, and rewound and trained in full
def test_every_training_after_pruning_is_taught(method, tmp_path, monkeypatch):
    seen = []

    def fitted(model, data, settings, seed, *, teacher=None, label="", **options):
        seen.append((label, teacher))
        return fit(model, data, settings, seed, teacher=teacher, label=label, **options)

    monkeypatch.setattr(cell, "fit", fitted)
    folders = [f"paths.results={tmp_path}/results", f"paths.cache={tmp_path}/cache"]
    words = ["trainer=tiny", "dataset.limit=100", "track=none", "measure=none", f"method={method}"]
    steps = ["schedule.steps=2"] if method == "lottery_ticket" else []
    found = cell.run(COMPOSER.cell([*words, *steps, *folders, "trainer.finetune.distil={temperature:2,weight:0.9}"]))
    assert found.status == "done" and len(seen) == 1 + len(steps)
    for _, teacher in seen:
        assert (teacher.temperature, teacher.weight) == (2.0, 0.9)
    assert len({id(teacher.model) for _, teacher in seen}) == 1


def taught_record(seed, **section):
    finetune = {"finetune": {"epochs": 10, "distil": {"temperature": None, "weight": None} | section}}
    return made(seed, settings={"trainer": {"train": {"epochs": 5}} | finetune})


def test_a_board_names_a_teacher_that_all_of_its_rows_had():
    [board] = boards(rows_of([taught_record(seed, weight=0.9) for seed in range(2)]))
    assert "fine-tuned with the dense network as the teacher (weight 0.9)" in provenance(board)[0]
    [board] = boards(rows_of([taught_record(seed) for seed in range(2)]))
    assert "teacher" not in provenance(board)[0]


def test_cells_that_alone_had_a_teacher_have_a_board_whose_name_says_so():
    records = [taught_record(seed) for seed in range(3)] + [taught_record(5, weight=0.9, temperature=2.0)]
    found = boards(rows_of(records))
    assert sorted(board.group["model"] for board in found) == ["mlp", "mlp [distil.temperature 2, distil.weight 0.9]"]


def test_networks_pruned_in_python_learn_from_their_dense_ones():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 12), nn.ReLU(), nn.Linear(12, 4))
    inputs, labels = noise(60, 5), whole_numbers(4, 60)
    pruned = secateurs.prune(model, inputs, labels, method="magnitude", keep=0.5)

    def distance():
        with torch.no_grad():
            return float((model(inputs).softmax(1) - pruned.model(inputs).softmax(1)).abs().mean())

    before = distance()
    taught = {"temperature": 1.0, "weight": 1.0}
    pruned.finetune(inputs, labels, epochs=60, learning_rate=0.3, validation=0, distil=taught)
    assert distance() < before / 2
    with pytest.raises(BadInput, match="distil"):
        pruned.finetune(inputs, noise(60, 4), epochs=1, distil=taught)
