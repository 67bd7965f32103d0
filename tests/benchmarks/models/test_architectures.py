"""The architectures beyond chains: every node method prunes them correctly, or says which layer it cannot score."""

import copy

import pytest
import torch
from omegaconf import OmegaConf

from benchmarks.cells.parts import build as build_part
from benchmarks.cells.parts import build_pruner
from benchmarks.measure.count import count
from benchmarks.models import build, mobilenet
from benchmarks.storage.paths import REPOSITORY
from benchmarks.sweeps.composition import Composer
from methods.budgets.budget import Budget, NodeCost
from methods.errors import Skipped
from methods.layers.statistics import Calibration
from methods.network.graph import NetworkGraph, gated
from methods.seeds import stream
from secateurs.promises import require_met

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("device")]

CONF = REPOSITORY / "conf"
SHAPE, CLASSES = (1, 8, 8), 4
SMALL = {
    "mobilenetv2": {"width": 0.12},
    "densenet": {"depth": 10, "growth": 4},
    "vit": {"dim": 12, "depth": 1, "heads": 4, "hidden": 20, "patch": 4},
    "resnet20": {"depth": 8, "width": 0.25},
}
QUICK = {"hap": ["selection.probes=2"], "dpp": []}
COMPOSER = Composer(CONF)
METHODS = sorted(path.stem for path in (CONF / "method").glob("*.yaml"))


@pytest.fixture(autouse=True)
def _small_mobilenet(monkeypatch):
    """Two blocks of each stage at most, since the second has the shortcut; and a last layer as narrow as the others."""
    monkeypatch.setattr(mobilenet, "LAST", 64)
    stages = [(expansion, out, min(blocks, 2), stride) for expansion, out, blocks, stride in mobilenet.STAGES]
    monkeypatch.setattr(mobilenet, "STAGES", stages)


def network(name):
    """With batch-norm statistics and scales that are not the initial ones."""
    model = build(OmegaConf.merge(OmegaConf.load(CONF / "model" / f"{name}.yaml"), SMALL[name]), SHAPE, CLASSES, 0)
    draw = stream(0, name)
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(std=0.3, generator=draw)
            module.running_var.uniform_(0.5, 2, generator=draw)
            with torch.no_grad():
                module.weight.uniform_(0.5, 1.5, generator=draw)
                module.bias.normal_(std=0.3, generator=draw)
    return model.eval()


def calibration(samples=24):
    draw = stream(1, "calibration")
    inputs = torch.randn(samples, *SHAPE, generator=draw)
    labels = torch.randint(0, CLASSES, (samples,), generator=draw)
    return Calibration(inputs, labels, torch.arange(samples), batch_size=12)


DATA = calibration()


def close_to(first, second):
    return torch.allclose(first, second, atol=1e-5 * float(second.abs().max().clamp_min(1)))


@pytest.mark.parametrize("residual", [False, True])
@pytest.mark.parametrize("name", SMALL)
def test_gated_equals_removed_and_the_cost_is_that_of_the_built_network(name, residual):
    model = network(name)
    closed = copy.deepcopy(model)
    graph = NetworkGraph(model, DATA.inputs, residual=residual)
    groups = list(graph.groups)
    draw = stream(2, name)
    kept = {g.name: torch.randperm(g.size, generator=draw)[: max(1, int(0.6 * g.size))].sort().values for g in groups}
    predicted = NodeCost(model, DATA.inputs, groups)({path: len(nodes) for path, nodes in kept.items()})
    with gated(closed, groups, kept), torch.no_grad():
        expected = closed(DATA.inputs)
    for path, nodes in kept.items():
        graph.remove(graph.find(path), nodes)
    with torch.no_grad():
        assert close_to(model(DATA.inputs), expected)
        assert not close_to(closed(DATA.inputs), expected)
    built = count(model, DATA.inputs)
    assert (predicted.compression, predicted.speedup) == (built.parameters, built.macs)


def prunes_nodes(method):
    section = OmegaConf.load(CONF / f"method/{method}.yaml").get("selection")
    return build_part(OmegaConf.to_container(section, resolve=True), "selection").unit == "node"


@pytest.mark.parametrize("name", ["mobilenetv2", "densenet", "vit"])
@pytest.mark.parametrize("method", [method for method in METHODS if prunes_nodes(method)])
def test_every_node_method_prunes_it_or_names_the_layer_it_cannot_treat(method, name):
    config = COMPOSER.cell([f"method={method}", *QUICK.get(method, [])])
    pruner = build_pruner(
        config | {"schedule": OmegaConf.to_container(OmegaConf.load(CONF / "schedule/one_shot.yaml"))}
    )
    model = network(name)
    layers = [path for path, _ in model.named_modules() if path]
    try:
        pruned = pruner.prune(model, DATA, Budget("speedup", 1.4))
    except Skipped as reason:
        assert any(path in str(reason) for path in layers)
        return
    built = count(pruned.model, DATA.inputs)
    dense = count(model, DATA.inputs)
    assert pruned.achieved["speedup"] == pytest.approx(dense.macs / built.macs)
    assert pruned.achieved["compression"] == pytest.approx(dense.parameters / built.parameters)
    require_met(pruner, pruned, "speedup", 1.4)
    with torch.no_grad():
        assert torch.isfinite(pruned.model.eval()(DATA.inputs)).all()


def test_what_is_left_alone_has_a_layer_and_a_reason():
    vit = NetworkGraph(network("vit"), DATA.inputs)
    assert [group.name for group in vit.groups] == ["blocks.0.attention.query", "blocks.0.fc1"]
    assert list(vit.left_alone) == ["patches"] and "residual stream" in vit.left_alone["patches"]
    whole = NetworkGraph(network("vit"), DATA.inputs, residual=True)
    assert not whole.left_alone and "blocks.0.norm1" in whole.find("patches").carriers
    mobile = NetworkGraph(network("mobilenetv2"), DATA.inputs)
    assert all("residual stream" in reason for reason in mobile.left_alone.values())
    assert not NetworkGraph(network("densenet"), DATA.inputs).left_alone


def test_fewer_heads_cost_fewer_products_of_attention():
    model = network("vit")
    graph = NetworkGraph(model, DATA.inputs)
    head = graph.find("blocks.0.attention.query")
    tokens, width = 4, 3
    assert head.product_macs == 2 * tokens * tokens * width
    before = count(model, DATA.inputs).macs
    graph.remove(head, torch.tensor([0, 2, 3]))
    removed = before - count(model, DATA.inputs).macs
    assert removed == head.product_macs + 4 * tokens * width * 12  # queries, keys, values and the projection
