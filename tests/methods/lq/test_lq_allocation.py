import pytest
import torch
from networks import calibration, make

from methods.baselines.magnitude import MagnitudeSelection
from methods.budgets.budget import Budget
from methods.errors import BadInput
from methods.lq.allocation import PQ, SparseLq, UniformPerNeuron, outgoing_norms
from methods.lq.bounds import lq_effective_count, pq_retained, tolerance_count
from methods.lq.selection import SparseLqSelection
from methods.network.sparsity import lq_norm
from methods.pruner import Pruner
from methods.schedule import Iterative

EDGES, NODES = MagnitudeSelection("edge"), MagnitudeSelection("node")
ALLOCATIONS = [SparseLq(), SparseLq(rule="tolerance"), SparseLq(scope="layer"), PQ(), PQ(1, 2), PQ(scope="layer")]


class Probe(MagnitudeSelection):
    """Remembers the layers it has been shown."""

    def select_all(self, layers, counts):
        self.layers, self.counts = list(layers), dict(counts)
        return super().select_all(layers, counts)


def seen(network, unit, budget=0.5):
    probe = Probe(unit)
    Pruner(probe).prune(make(network), calibration(), Budget("keep", budget))
    return probe.layers


def total(counts):
    return sum(int(count.sum()) if isinstance(count, torch.Tensor) else count for count in counts.values())


@pytest.mark.parametrize("allocation", [*ALLOCATIONS, UniformPerNeuron()])
@pytest.mark.parametrize("network", ["chain", "batch_norm"])
def test_edge_families_are_monotone_and_end_at_everything(allocation, network):
    layers = seen(network, "edge")
    generator = torch.Generator().manual_seed(0)
    for layer in layers:
        layer.live = torch.rand(layer.weight.shape, generator=generator) < 0.8
    family = allocation.family(layers, EDGES)
    previous = None
    for s in torch.linspace(0, 1, 60).tolist():
        counts = family(s)
        for layer in layers:
            count = counts[layer.name]
            if isinstance(count, int):
                count = torch.tensor([count])
                room = layer.live.sum()[None]
            else:
                assert count.dtype == torch.int64
                room = layer.live.sum(1)
            assert bool((count >= room.clamp(max=1)).all() and (count <= room).all())
            if previous is not None:
                assert bool((count >= torch.as_tensor(previous[layer.name])).all())
        previous = counts
    assert total(previous) == sum(int(layer.live.sum()) for layer in layers)


@pytest.mark.parametrize(
    ("allocation", "rule"),
    [
        (SparseLq(0.3), lambda w: lq_effective_count(w, 0.3)),
        (SparseLq(rule="tolerance", epsilon=0.4), lambda w: tolerance_count(w, 0.5, 0.4)),
        (PQ(1, 2), lambda w: pq_retained(w, 1, 2)),
    ],
)
def test_one_factor_scales_the_rule(allocation, rule):
    layers = seen("chain", "edge")
    counts = allocation.family(layers, EDGES)(0.4)
    ratios = torch.cat([counts[layer.name] / rule(layer.weight) for layer in layers])
    widths = torch.cat([torch.full((len(layer.weight),), layer.weight.shape[1]) for layer in layers])
    found = torch.cat([counts[layer.name] for layer in layers])
    inside = (found > 1) & (found < widths)
    effective = torch.cat([rule(layer.weight) for layer in layers])[inside]
    factor = ratios[inside].median()
    assert inside.sum() > 10
    assert bool(((found[inside] - factor * effective).abs() <= 2).all())


def test_a_concentrated_neuron_gets_fewer_weights_than_a_flat_one():
    layers = seen("chain", "edge")
    weight = torch.ones_like(layers[0].weight)
    weight[3] = torch.logspace(-4, 0, weight.shape[1])
    layers[0].__dict__["weight"] = weight
    for allocation in (SparseLq(), SparseLq(rule="tolerance"), PQ(), PQ(1, 2)):
        counts = allocation.family(layers, EDGES)(0.3)[layers[0].name]
        others = torch.cat([counts[:3], counts[4:]])
        assert int(counts[3]) < int(others.min())
        assert int(others.max()) - int(others.min()) <= 1


@pytest.mark.parametrize("allocation", [*ALLOCATIONS, UniformPerNeuron()])
@pytest.mark.parametrize("keep", [0.7, 0.3])
def test_edge_budgets_are_met(allocation, keep):
    pruned = Pruner(EDGES, allocation).prune(make("chain"), calibration(), Budget("keep", keep))
    assert pruned.achieved["keep"] == pytest.approx(keep, rel=0.01)
    for mask in pruned.masks.values():
        assert bool(mask.flatten(1).any(1).all()) or (
            isinstance(allocation, SparseLq | PQ) and allocation.scope == "layer"
        )


def test_uniform_per_neuron_gives_rows_of_equal_length():
    pruned = Pruner(EDGES, UniformPerNeuron()).prune(make("chain"), calibration(), Budget("keep", 0.33))
    for mask in pruned.masks.values():
        rows = mask.sum(1)
        assert int(rows.max()) - int(rows.min()) <= 1
        assert float(rows.double().mean()) == pytest.approx(0.33 * mask.shape[1], abs=0.6)


def test_nodes_are_counted_by_the_norms_of_their_outgoing_weights():
    layers = seen("batch_norm", "node")
    for layer in layers:
        rows = torch.cat([reader.transpose(0, 1).flatten(1) for reader in layer.outgoing], 1)
        norms = outgoing_norms(layer, 0.5)
        assert norms.shape == (layer.size,)
        assert float(norms[2]) == pytest.approx(float(lq_norm(rows[2], 0.5)))
    family = SparseLq().family(layers, NODES)
    effective = {layer.name: float(lq_effective_count(outgoing_norms(layer, 0.5), 0.5)) for layer in layers}
    counts = family(0.5)
    factor = 0.5 * max(layer.size / effective[layer.name] for layer in layers)
    for layer in layers:
        assert counts[layer.name] == min(layer.size, int(factor * effective[layer.name] + 0.5))
    assert family(1.0) == {layer.name: layer.size for layer in layers}


@pytest.mark.parametrize("allocation", [SparseLq(), PQ(), PQ(1, 2)])
@pytest.mark.parametrize("network", ["chain", "convolution", "residual"])
def test_node_pruning_with_these_allocations(allocation, network):
    selection = SparseLqSelection("node")
    pruned = Pruner(selection, allocation).prune(make(network), calibration(), Budget("keep", 0.5))
    assert pruned.achieved["keep"] == pytest.approx(0.5, abs=0.06)
    assert all(layer["kept"] >= 1 for layer in pruned.layers)


def test_masks_are_nested_over_the_steps_of_a_schedule():
    steps = []
    pruner = Pruner(EDGES, SparseLq(), schedule=Iterative(steps=4))
    pruned = pruner.prune(
        make("chain"), calibration(), Budget("keep", 0.2), train=lambda model, masks, step: steps.append(dict(masks))
    )
    for before, after in zip(steps, [*steps[1:], pruned.masks], strict=True):
        for name, mask in after.items():
            assert not bool((mask & ~before[name]).any())
    assert [step["keep"] for step in pruned.steps] == pytest.approx([0.2 ** (t / 4) for t in (1, 2, 3, 4)], rel=0.01)


def test_bad_input():
    for build, word in [
        (lambda: SparseLq(q=1), "q="),
        (lambda: SparseLq(q=-0.5), "q="),
        (lambda: SparseLq(rule="gini"), "rule"),
        (lambda: SparseLq(epsilon=0), "epsilon"),
        (lambda: SparseLq(scope="global"), "scope"),
        (lambda: PQ(2, 1), "0 < p < q"),
        (lambda: PQ(eta=-1), "eta"),
        (lambda: PQ(scope="row"), "scope"),
    ]:
        with pytest.raises(BadInput, match=word):
            build()
    with pytest.raises(BadInput, match="edges"):
        UniformPerNeuron().family(seen("chain", "node"), NODES)
