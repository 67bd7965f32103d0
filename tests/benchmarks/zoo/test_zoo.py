"""Every network of the zoo is pruned correctly, as far as it is pruned at all, and its page says what was found."""

import copy

import pytest
import torch

from benchmarks import networks
from benchmarks.zoo.examine import TOLERANCE, Subject, examine, halved
from benchmarks.zoo.page import row, section
from benchmarks.zoo.specimen import Specimen, tokens, vectors
from benchmarks.zoo.zoo import EVERY, present
from methods.errors import BadInput
from methods.network.graph import NetworkGraph
from methods.pruning.writing_out import write_out

pytestmark = pytest.mark.usefixtures("device")

PAGE = networks.PAGE.read_text(encoding="utf-8")
ALIKE = 1e-4  # of what ONNX Runtime computes, relative to the largest number


def test_there_are_forty_architectures_and_each_is_on_the_page_once():
    names = [each.name for each in EVERY]
    assert len(names) == len(set(names)) >= 40
    assert [line.split(" | ")[0][2:] for line in PAGE.splitlines() if line.startswith("| ")][2:] == names


@pytest.mark.slow
@pytest.mark.cpu("the zoo is examined on the CPU")
@pytest.mark.parametrize("specimen", present(), ids=lambda each: each.name.replace(" ", "-"))
def test_what_can_be_pruned_is_pruned_correctly(specimen, tmp_path):
    found = examine(specimen, tmp_path)
    if found.groups:
        assert found.difference <= TOLERANCE
        assert found.effect > 10 * TOLERANCE  # else the comparison would say nothing
    assert found.cost_holds
    assert found.trains
    assert found.reads_back
    assert row(found) in PAGE, f"type python -m benchmarks.networks; found {row(found)}"
    assert section(found) in PAGE, f"type python -m benchmarks.networks; found {section(found)}"


@pytest.mark.slow
@pytest.mark.cpu("the zoo is examined on the CPU")
@pytest.mark.parametrize(
    "specimen", [each for each in present() if each.exports], ids=lambda each: each.name.replace(" ", "-")
)
def test_the_pruned_network_computes_the_same_in_onnx_runtime(specimen, tmp_path):
    from benchmarks.measure.runtimes.onnx import open_session

    subject = Subject(specimen)
    with subject.called():
        written = copy.deepcopy(subject.model)
        write_out(written, subject.example)
        smaller, kept = halved(written, NetworkGraph(written, subject.example))
    assert kept
    pruned = subject.as_given(smaller)
    session = open_session(pruned.to_onnx(tmp_path / "network.onnx").read_bytes())
    args, kwargs = subject.samples.first(2, torch.device("cpu"))
    names = [each.name for each in session.get_inputs()]
    feed = dict(zip(names, args, strict=False)) | {name: kwargs[name] for name in names if name in kwargs}
    found = torch.from_numpy(session.run(None, {name: value.numpy() for name, value in feed.items()})[0])
    with torch.no_grad():
        expected = pruned.model(*args, **kwargs)
    expected = expected if isinstance(expected, torch.Tensor) else expected[0]
    assert float((found - expected).abs().max()) <= ALIKE * float(expected.abs().max())


class TwoLayers(torch.nn.Module):
    """Two layers."""

    def __init__(self):
        super().__init__()
        self.one, self.two = torch.nn.Linear(6, 8), torch.nn.Linear(8, 3)

    def forward(self, x):
        return self.two(self.one(x).relu())


@pytest.mark.cpu("the zoo is examined on the CPU")
def test_an_examination_finds_what_is_wrong(tmp_path, monkeypatch):
    """Columns of a reader that are cut at the wrong place are seen in the outputs, a missing bias in the cost."""
    specimen = Specimen("two layers", "", TwoLayers, vectors(6))
    right = examine(specimen, tmp_path)
    assert right.difference <= TOLERANCE < right.effect
    assert (right.groups, right.nodes, right.cost_holds, right.trains, right.reads_back) == (1, 8, True, True, True)
    assert right.share == pytest.approx(1 - 3 / 83)  # all but the output's bias

    from methods.network.kinds.linear import Linear

    cut = Linear.cut_inputs
    monkeypatch.setattr(Linear, "cut_inputs", lambda self, module, gone: cut(self, module, (gone + 1) % 8))
    assert examine(specimen, tmp_path).difference > 100 * TOLERANCE
    monkeypatch.setattr(Linear, "cut_inputs", cut)
    monkeypatch.setattr("benchmarks.zoo.examine.count_macs", lambda *_: 1)
    assert not examine(specimen, tmp_path).cost_holds


def test_a_network_is_the_same_each_time():
    specimen = Specimen("twice", "", TwoLayers, tokens())
    before = torch.random.get_rng_state()
    one, other = specimen.build().state_dict(), specimen.build().state_dict()
    assert all(torch.equal(value, other[name]) for name, value in one.items())
    assert torch.equal(torch.random.get_rng_state(), before)


def test_unknown_networks_and_pages_are_refused():
    with pytest.raises(BadInput, match="unknown network 'BRET'"):
        networks.main(["BRET"])
    with pytest.raises(BadInput, match="--check is for the whole page"):
        networks.main(["BERT", "--check"])


def test_single_networks_are_shown_and_nothing_is_written(capsys):
    before = networks.PAGE.read_bytes()
    assert networks.main(["fused GLU"]) == 0
    assert "fused GLU" in capsys.readouterr().out
    assert networks.PAGE.read_bytes() == before
