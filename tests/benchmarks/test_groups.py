"""What can be pruned of a network: the groups, their shares, the reasons, and the command."""

import pytest
import torch
from networks import NETWORKS, make
from torch import nn

from benchmarks import groups
from benchmarks.measure.count import count
from benchmarks.zoo.divided import FusedMultiQuery
from methods.errors import BadInput
from methods.network.graph import NetworkGraph

pytestmark = pytest.mark.usefixtures("device")


def test_lenets_parts_have_the_numbers_that_one_counts_by_hand():
    _, parts = groups.examine(config("lenet5"))
    found = [(part.name, part.units, part.parameters, part.macs, not part.reason) for part in parts]
    assert found == [
        ("conv1", 6, 6 * 25 + 6, 6 * 25 * 28 * 28, True),
        ("conv2", 16, 16 * 6 * 25 + 16, 16 * 6 * 25 * 10 * 10, True),
        ("fc1", 120, 400 * 120 + 120, 400 * 120, True),
        ("fc2", 84, 120 * 84 + 84, 120 * 84, True),
        ("fc3", 10, 84 * 10 + 10, 84 * 10, False),
    ]
    assert parts[-1].reason == "its units are the network's outputs"


def config(model, dataset=None):
    section = dataset or {"name": "mnist", "shape": [1, 28, 28], "classes": 10}
    return {"model": {"name": model, "_target_": "benchmarks.models.LeNet5"}, "dataset": section, "seed": 0}


@pytest.mark.parametrize("residual", [False, True])
@pytest.mark.parametrize("name", NETWORKS)
def test_parts_add_up_to_the_network_and_are_those_of_the_pruner(name, residual):
    model = make(name)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    parts = groups.parts_of(model, (1, 8, 8), residual)
    whole = count(model, torch.zeros(1, 1, 8, 8))
    assert (sum(part.parameters for part in parts), sum(part.macs for part in parts)) == (whole.parameters, whole.macs)
    graph = NetworkGraph(model, torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(0)), residual=residual)
    assert {p.name: p.units for p in parts if not p.reason} == {group.name: group.size for group in graph.groups}
    reasons = {part.name: part.reason for part in parts}
    assert all(reasons[path] == reason for path, reason in graph.left_alone.items())
    layers = [path for part in parts for path in part.layers]
    assert len(layers) == len(set(layers))
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_a_residual_stream_is_one_part_with_its_layers_and_the_way_to_prune_it():
    parts = {part.name: part for part in groups.parts_of(make("residual"), (1, 8, 8), residual=False)}
    assert parts["stem"].layers == ("stem", "first.3", "norm") and "prune_residual=true" in parts["stem"].reason
    assert parts["first.0"].reason == "" and parts["first.0"].layers == ("first.0", "first.1")


def test_a_layer_whose_nodes_cannot_go_is_named_with_the_reason():
    model = nn.Sequential(
        nn.Conv2d(1, 8, 3), nn.LayerNorm((8, 6, 6)), nn.Conv2d(8, 3, 3), nn.Flatten(), nn.Linear(48, 2)
    )
    parts = {part.name: part for part in groups.parts_of(model, (1, 8, 8), residual=False)}
    assert "1 (LayerNorm)" in parts["0"].reason and parts["0"].units == 8
    assert parts["1"].units is None and parts["1"].parameters == 576 and parts["2"].reason == ""
    rows = {row[0]: row[1:] for row in groups.table_of("net", list(parts.values())).rows}
    whole = 80 + 576 + 219 + 98
    assert rows["0"][:2] == ["8", f"{100 * 80 / whole:.2f}"] and rows["0"][-1] == parts["0"].reason


def test_the_command_reads_no_data(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("SECATEURS_DATA", str(tmp_path / "nothing"))
    monkeypatch.setenv("SECATEURS_CACHE", str(tmp_path / "cache"))
    picture = tmp_path / "pictures" / "groups.png"
    asked = ["model=lenet5", "dataset=mnist", f"paths.results={tmp_path}/results"]
    assert groups.main([*asked, "--figure", str(picture)]) == 0
    said = capsys.readouterr().out
    assert said.splitlines()[-1] == f"the same as a picture: {picture}"
    assert "lenet5 on mnist" in said and "4 groups of 226 units" in said and "the network's outputs" in said
    assert picture.read_bytes().startswith(b"\x89PNG") and not (tmp_path / "cache").exists()
    assert not (tmp_path / "results").exists()
    assert groups.main([*asked, "--no-figure"]) == 0
    assert "picture" not in capsys.readouterr().out and not (tmp_path / "results").exists()


@pytest.mark.slow
def test_table_and_picture_are_the_answer_and_the_last_line_says_where_the_picture_is(tmp_path, capsys):
    asked = ["model=lenet5", "dataset=mnist", f"paths.results={tmp_path}"]
    picture = tmp_path / "groups/mnist_lenet5.png"
    pictures = []
    for _ in range(2):
        assert groups.main(asked) == 0
        assert capsys.readouterr().out.splitlines()[-1] == f"the same as a picture: {picture}"
        pictures.append(picture.read_bytes())
    assert pictures[0].startswith(b"\x89PNG") and pictures[0] == pictures[1]
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(BadInput, match="paths.results=FOLDER"):
        groups.main([*asked[:2], f"paths.results={tmp_path}/file"])


def test_the_picture_shows_every_part_with_its_shares_its_units_and_its_reason():
    model = nn.Sequential(
        nn.Conv2d(1, 8, 3), nn.LayerNorm((8, 6, 6)), nn.Conv2d(8, 3, 3), nn.Flatten(), nn.Linear(48, 2)
    )
    parts = groups.parts_of(model, (1, 8, 8), residual=False)
    figure = groups.draw("a $net$", parts)
    left, right, words = figure.axes
    assert [text.get_text() for text in left.get_yticklabels()] == ["0 (8)", "1", "2 (3)", "4 (2)"]
    for axis, sizes in ((left, [p.parameters for p in parts]), (right, [p.macs for p in parts])):
        bars = axis.containers[0]
        assert [bar.get_width() for bar in bars] == pytest.approx([100 * size / sum(sizes) for size in sizes])
    shown = [text.get_text().replace("\n", " ") for text in words.texts]
    assert [text.removesuffix(" …") in part.reason for text, part in zip(shown, parts, strict=True)] == [True] * 4
    assert [bool(text) for text in shown] == [bool(part.reason) for part in parts]
    assert "a $net$" in figure.get_suptitle()


@pytest.mark.parametrize(
    "words,said",
    [
        (["model=lenet5", "dataset=mnist", "--figure", "x.pdf"], "is no PNG file; type for instance"),
        (["model=lenet5", "dataset=mnist", "--figure", "x.pdf"], "x.pdf is no PNG"),
        (["model=lenet5,mlp", "dataset=mnist"], "several networks; type one of them"),
        (["model=lenet5", "dataset=mnist", "dataset.classes=null"], "dataset.classes"),
    ],
)
def test_bad_words_are_refused(words, said):
    with pytest.raises(BadInput, match=said):
        groups.main(words)


def test_parts_of_a_layer_are_rows_of_their_own_and_heads_say_what_stays():
    """Of 24 units 16 are queries of four heads; the key and the value that all of them share stay."""
    model = FusedMultiQuery()
    parts = groups.parts_on(model, torch.zeros(2, 6, dtype=torch.int64), residual=True)
    found = {part.name: (part.units, part.parameters, part.reason, part.note) for part in parts}
    dimensions = (
        "by whole heads, 4 units of this layer each; the dimensions inside a head stay, since scores and their scale "
        "need all of them"
    )
    assert found["qkv[0:16]"] == (4, 16 * 17, "", dimensions)
    assert found["qkv[16:24]"] == (8, 8 * 17, "all other nodes of qkv share these units", "")
    assert sum(part.parameters for part in parts) == sum(parameter.numel() for parameter in model.parameters())
    rows = {row[0]: row[4] for row in groups.table_of("", parts).rows}
    assert rows["qkv[0:16]"] == f"yes, {dimensions}"
