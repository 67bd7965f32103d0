from itertools import pairwise
from pathlib import Path

import pytest
import torch
from networks import noise
from omegaconf import OmegaConf
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import conf
from benchmarks.data.tokens import Tokens
from benchmarks.models import MLP, VGG, LeNet5, ResNet, build
from methods.errors import BadInput
from methods.network.graph import NetworkGraph

pytestmark = pytest.mark.slow

CONF = Path(conf.__file__).parent / "model"
BERT = {
    "model_type": "bert",
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 24,
}
RUNNING, SENTENCES = Tokens("language_model", 7), Tokens("text_classification", 11, 0)
OF_TOKENS = {  # what each reads, and changes of its configuration that need no download
    "char_gpt": (RUNNING, {"depth": 2}),
    "char_llama": (RUNNING, {"depth": 2}),
    "text_encoder": (SENTENCES, {}),
    "hf": (SENTENCES, {"config": BERT}),
    "minilm": (SENTENCES, {"path": None, "config": BERT}),
}
ELSEWHERE = {"own", "irnn", *OF_TOKENS}  # a user's own network; sequences
MODELS = sorted(path.stem for path in CONF.glob("*.yaml") if path.stem not in ELSEWHERE)
MNIST, CIFAR, DIGITS, TABULAR = (1, 28, 28), (3, 32, 32), (1, 8, 8), (8,)
LENGTH = 8  # tokens of a sequence
FOR_CIFAR = ("vgg", "resnet", "mobilenetv2", "densenet", "vit")


def config(name, **changes):
    return OmegaConf.merge(OmegaConf.load(CONF / f"{name}.yaml"), changes)


def home_shape(name):
    return CIFAR if name.startswith(FOR_CIFAR) else MNIST


def network_of_tokens(name, **changes):
    tokens, needed = OF_TOKENS[name]
    return build(config(name, **{**needed, **changes}), (LENGTH,), 7, 0, tokens)


def ids_for(name):
    return OF_TOKENS[name][0].probe(2, LENGTH, torch.Generator().manual_seed(0))


def parameters(model):
    return sum(parameter.numel() for parameter in model.parameters())


def macs(model, shape):
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model.eval()(torch.zeros(1, *shape))
    return counter.get_total_flops() // 2


def own_model(shape, classes, hidden=4):
    return nn.Sequential(nn.Flatten(), nn.Linear(shape[0] * shape[1] * shape[2], hidden), nn.Linear(hidden, classes))


def fixed_model(outputs=10):
    return nn.Sequential(nn.Flatten(), nn.Linear(64, outputs))


def any_keyword(**arguments):
    return own_model(arguments["shape"], arguments["classes"])


def not_a_model():
    return 3


# Sizes


@pytest.mark.parametrize(
    ("name", "shape", "expected_parameters", "expected_macs"),
    [
        ("lenet5", MNIST, 61_706, 416_520),
        ("vgg16", CIFAR, 14_724_042, 313_201_664),
        ("resnet20", CIFAR, 272_474, 40_813_184),
        ("resnet56", CIFAR, 855_770, 125_747_840),
        ("mlp500", MNIST, 648_010, 647_000),
        ("lenet300", MNIST, 266_610, 266_200),
        ("mlpnet", MNIST, 32_360, 32_360),
    ],
)
def test_sizes_known_from_the_literature(name, shape, expected_parameters, expected_macs):
    model = build(config(name), shape, 10, 0)
    assert parameters(model) == expected_parameters
    assert macs(model, shape) == expected_macs


def vgg_count(stages, channels):
    """Convolutions without biases, two parameters per normalised channel, one linear layer."""
    total, cost, size = 0, 0, 32
    for full, convolutions in zip((64, 128, 256, 512, 512), stages, strict=True):
        for _ in range(convolutions):
            total += 9 * channels * full + 2 * full
            cost += 9 * channels * full * size * size
            channels = full
        size //= 2
    return total + 5130, cost + 5120


@pytest.mark.parametrize(("name", "stages"), [("vgg11", (1, 1, 2, 2, 2)), ("vgg13", (2, 2, 2, 2, 2))])
def test_vgg_sizes_by_hand(name, stages):
    model = build(config(name), CIFAR, 10, 0)
    assert (parameters(model), macs(model, CIFAR)) == vgg_count(stages, 3)


@pytest.mark.parametrize("name", [name for name in MODELS if home_shape(name) == MNIST and name != "lenet5"])
@pytest.mark.parametrize("shape", [MNIST, DIGITS, TABULAR])
def test_perceptron_sizes_by_hand(name, shape):
    cfg = config(name)
    sizes = [torch.Size(shape).numel(), *cfg.widths, 10]
    weights = sum(a * b for a, b in pairwise(sizes))
    model = build(cfg, shape, 10, 0)
    assert parameters(model) == weights + (sum(sizes[1:]) if cfg.bias else 0)
    assert macs(model, shape) == weights


@pytest.mark.parametrize("name", MODELS)
def test_every_model_takes_its_shape_and_gives_its_classes(name):
    model = build(config(name), home_shape(name), 7, 0)
    assert model.training
    assert model(noise(2, *home_shape(name))).shape == (2, 7)
    assert config(name).name == name


@pytest.mark.parametrize("name", OF_TOKENS)
def test_every_model_of_tokens_takes_ids_and_gives_its_classes(name):
    model, tokens = network_of_tokens(name), OF_TOKENS[name][0]
    assert model.training
    assert model(ids_for(name)).shape == ((2, LENGTH, 7) if tokens.each else (2, 7))
    assert config(name).name == name


def transformer_block(dim, hidden, tokens):
    """Queries, keys, values, the projection and two layers, with biases, and two norms; products of all pairs."""
    weights = 4 * dim * dim + 2 * dim * hidden
    return weights + 4 * dim + hidden + dim + 4 * dim, tokens * weights + 2 * tokens * tokens * dim


def test_sizes_of_networks_of_tokens_by_hand():
    def sizes(model, ids):
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            model.eval()(ids[:1])
        return parameters(model), counter.get_total_flops() // 2

    block, cost = transformer_block(128, 512, LENGTH)
    first = (7 + LENGTH) * 128 + 4 * block + 2 * 128 + 7 * 128 + 7, 4 * cost + LENGTH * 128 * 7
    assert sizes(network_of_tokens("char_gpt", depth=4), ids_for("char_gpt")) == first
    weights = 3 * 128 * 128 + 3 * 128 * 344  # half as many keys and values, no biases
    cost = LENGTH * weights + 2 * LENGTH * LENGTH * 128
    second = 2 * 7 * 128 + 4 * (weights + 2 * 128) + 128, 4 * cost + LENGTH * 128 * 7
    assert sizes(network_of_tokens("char_llama", depth=4), ids_for("char_llama")) == second
    block, cost = transformer_block(64, 128, LENGTH)
    third = (11 + LENGTH) * 64 + 2 * block + 2 * 64 + 7 * 64 + 7, 2 * cost + 64 * 7
    assert sizes(network_of_tokens("text_encoder"), ids_for("text_encoder")) == third


def test_lenet5_takes_cifar():
    assert build(config("lenet5"), CIFAR, 10, 0)(torch.zeros(2, *CIFAR)).shape == (2, 10)
    assert build(config("lenet5"), CIFAR, 10, 0).fc1.in_features == 400


@pytest.mark.parametrize(("name", "full"), [("vgg16", 64), ("resnet20", 16)])
def test_width_multiplies_channels(name, full):
    model = build(config(name, width=0.25), CIFAR, 10, 0)
    convolutions = [module for module in model.modules() if isinstance(module, nn.Conv2d)]
    whole = [module for module in build(config(name), CIFAR, 10, 0).modules() if isinstance(module, nn.Conv2d)]
    assert [4 * small.out_channels for small in convolutions] == [large.out_channels for large in whole]
    assert convolutions[0].out_channels == full // 4
    assert model(torch.zeros(2, *CIFAR)).shape == (2, 10)


@pytest.mark.parametrize("depth", [20, 32, 56])
def test_resnet_depth_counts_the_layers_outside_shortcuts(depth):
    model = build(config(f"resnet{depth}"), CIFAR, 10, 0)
    layers = [name for name, module in model.named_modules() if isinstance(module, nn.Conv2d | nn.Linear)]
    assert len([name for name in layers if "shortcut" not in name]) == depth
    assert len([name for name in layers if "shortcut" in name]) == 2


@pytest.mark.parametrize("depth", [11, 13, 16])
def test_vgg_depth_counts_two_more_linear_layers_than_there_are(depth):
    model = build(config(f"vgg{depth}"), CIFAR, 10, 0)
    assert sum(isinstance(module, nn.Conv2d | nn.Linear) for module in model.modules()) + 2 == depth


def test_vgg_pads_images_of_28_pixels_by_two_on_each_side():
    padded = VGG(11, 0.125, shape=MNIST, classes=10).eval()
    full = VGG(11, 0.125, shape=(1, 32, 32), classes=10).eval()
    full.load_state_dict(padded.state_dict())
    x = noise(2, *MNIST)
    torch.testing.assert_close(padded(x), full(nn.functional.pad(x, (2, 2, 2, 2))))
    assert macs(padded, MNIST) == macs(full, (1, 32, 32))


# What pruning needs


@pytest.mark.parametrize("name", MODELS)
def test_nothing_works_in_place_and_the_forward_can_be_traced(name):
    model = build(config(name, **({"width": 0.25} if "width" in config(name) else {})), home_shape(name), 10, 0)
    assert not any(getattr(module, "inplace", False) for module in model.modules())
    x = noise(2, *home_shape(name))
    torch.testing.assert_close(torch.fx.symbolic_trace(model.eval())(x), model(x))


@pytest.mark.parametrize("name", OF_TOKENS)
def test_nothing_works_in_place_in_a_model_of_tokens_and_it_can_be_exported(name):
    model, ids = network_of_tokens(name).eval(), ids_for(name)
    assert not any(getattr(module, "inplace", False) for module in model.modules())
    with torch.no_grad():
        program = torch.export.export(model, (ids,))
        torch.testing.assert_close(program.module()(ids), model(ids))


@pytest.mark.parametrize("name", ["lenet5", "resnet20", "vgg11", "lenet300"])
@pytest.mark.usefixtures("device")
def test_hidden_nodes_can_be_removed_by_the_dependency_graph(name):
    import torch_pruning as tp

    shape = home_shape(name)
    model = build(config(name), shape, 10, 0).eval()
    first = next(module for module in model.modules() if isinstance(module, nn.Conv2d | nn.Linear))
    prune = tp.prune_conv_out_channels if isinstance(first, nn.Conv2d) else tp.prune_linear_out_channels
    graph = tp.DependencyGraph().build_dependency(model, noise(1, *shape))
    before = parameters(model)
    graph.get_pruning_group(first, prune, [0, 2]).prune()
    assert parameters(model) < before
    assert model(noise(2, *shape)).shape == (2, 10)


@pytest.mark.parametrize("name", [name for name in MODELS if "resnet" not in name or name == "resnet20"])
def test_experiment_finds_the_groups_of_the_dependency_graph_but_for_heads_and_recurrence(name):
    narrow = {"width": 0.25} if "width" in config(name) else {}
    model = build(config(name, **narrow), home_shape(name), 10, 0)
    compare_groups(model, torch.randn(2, *home_shape(name), generator=torch.Generator().manual_seed(0)))


@pytest.mark.parametrize("name", OF_TOKENS)
def test_the_groups_of_models_of_tokens_are_those_of_the_dependency_graph_but_for_heads(name):
    model, ids = network_of_tokens(name), ids_for(name)
    groups = NetworkGraph(model, ids, residual=True).groups
    model.requires_grad_(True)  # the package follows gradients, so that it does not see what is frozen
    for module in model.modules():
        if hasattr(module, "rotary"):
            module.rotary = False  # turning couples nothing, and is all that the package cannot follow
    assert compare_groups(model, ids, groups) > 1


def compare_groups(model, example, groups=None):
    """Whether Torch-Pruning finds the same layers in each group (how many were compared)."""
    import torch_pruning as tp

    prunes = {nn.Linear: tp.prune_linear_out_channels, nn.Embedding: tp.prune_embedding_out_channels}
    groups = groups or NetworkGraph(model, example, residual=True).groups
    assert groups
    theirs = tp.DependencyGraph().build_dependency(model, example)
    paths = {module: path for path, module in model.named_modules()}
    compared = [group for group in groups if group.width == 1 and not group.recurrent]  # its rules know neither
    for group in compared:
        writer = model.get_submodule(group.name)
        members = theirs.get_pruning_group(writer, prunes.get(type(writer), tp.prune_conv_out_channels), [0])
        cut = {paths[dep.target.module] for dep, _ in members if dep.target.module in paths}
        kinds = nn.Conv2d | nn.Linear | nn.Embedding
        layers = {path for path in cut if isinstance(model.get_submodule(path), kinds)}
        assert layers - set(group.carriers) == {*group.writers, *(reader.name for reader in group.readers)}, group.name
    return len(compared)


def test_layer_names_say_where_a_layer_is():
    def layers(model):
        return [name for name, module in model.named_modules() if isinstance(module, nn.Conv2d | nn.Linear)]

    assert layers(MLP((5, 4), shape=DIGITS, classes=3)) == ["fc1", "fc2", "fc3"]
    assert layers(LeNet5(shape=MNIST, classes=10)) == ["conv1", "conv2", "fc1", "fc2", "fc3"]
    vgg = layers(VGG(11, 0.1, shape=CIFAR, classes=10))
    assert vgg[:4] == ["features.conv1_1", "features.conv2_1", "features.conv3_1", "features.conv3_2"]
    assert vgg[-1] == "classifier"
    assert "stage2.0.shortcut.conv" in layers(ResNet(8, shape=CIFAR, classes=10))


# Options of the perceptron


@pytest.mark.parametrize(("activation", "kind"), [("relu", nn.ReLU), ("sigmoid", nn.Sigmoid), ("tanh", nn.Tanh)])
def test_activation_stands_between_layers_only(activation, kind):
    model = MLP((6, 5), activation, shape=DIGITS, classes=3)
    kinds = [type(module) for module in model.children()]
    assert kinds == [nn.Flatten, nn.Linear, kind, nn.Linear, kind, nn.Linear]


def test_perceptron_without_biases_is_homogeneous():
    model = build(config("mlpnet"), MNIST, 10, 0)
    x = noise(3, *MNIST)
    assert all(module.bias is None for module in model.modules() if isinstance(module, nn.Linear))
    torch.testing.assert_close(model(3 * x), 3 * model(x))


def test_sigmoid_layers_pass_the_signal_on():
    model = build(config("mlp1000"), DIGITS, 10, 0)
    x = torch.randn(100, *DIGITS, generator=torch.Generator().manual_seed(0))
    spread = model(x).std(0).mean()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        for module in model.modules():
            if isinstance(module, nn.Linear):
                module.reset_parameters()
    assert spread > 10 * model(x).std(0).mean()


def test_perceptron_without_hidden_layer_is_linear():
    model = MLP((), shape=TABULAR, classes=1)
    assert [name for name, _ in model.named_children()] == ["flatten", "fc1"]


# Building


@pytest.mark.parametrize("name", ["mlp", "mlp500", "lenet5", "resnet20"])
def test_initial_weights_follow_the_seed_alone(name):
    torch.manual_seed(1)
    first = build(config(name), home_shape(name), 10, 0).state_dict()
    torch.manual_seed(2)
    second = build(config(name), home_shape(name), 10, 0).state_dict()
    other = build(config(name), home_shape(name), 10, 1).state_dict()
    assert all(torch.equal(first[key], second[key]) for key in first)
    weights = [key for key in first if first[key].ndim > 1]
    assert not any(torch.equal(first[key], other[key]) for key in weights)


def test_building_leaves_the_global_random_state_alone():
    state = torch.random.get_rng_state()
    build(config("lenet5"), MNIST, 10, 0)
    assert torch.equal(torch.random.get_rng_state(), state)
    with pytest.raises(BadInput):
        build(config("lenet5"), TABULAR, 10, 0)
    assert torch.equal(torch.random.get_rng_state(), state)


def test_the_check_moves_no_running_statistics():
    model = build(config("resnet20"), CIFAR, 10, 0)
    for name, buffer in model.named_buffers():
        expected = torch.ones_like(buffer) if name.endswith("running_var") else torch.zeros_like(buffer)
        assert torch.equal(buffer, expected)


@pytest.mark.parametrize("target", ["own_model", "any_keyword"])
def test_any_factory_gets_shape_and_classes_if_it_takes_them(target):
    model = build({"_target_": f"{__name__}.{target}"}, DIGITS, 6, 0)
    assert model[-1].out_features == 6


def test_a_factory_that_takes_neither_is_called_without():
    assert build({"_target_": f"{__name__}.fixed_model", "name": "mine"}, DIGITS, 10, 0)[1].out_features == 10
    assert build({"_target_": f"{__name__}.own_model", "hidden": 9}, DIGITS, 10, 0)[1].out_features == 9


def refuse(cfg, shape, classes, *expected):
    with pytest.raises(BadInput) as caught:
        build(cfg, shape, classes, 0)
    message = str(caught.value)
    assert len(message.splitlines()) <= 2
    for part in expected:
        assert part in message


@pytest.mark.parametrize(
    ("name", "shape"),
    [("lenet5", DIGITS), ("lenet5", TABULAR), ("vgg16", (1, 27, 28)), ("vgg11", TABULAR), ("resnet20", TABULAR)],
)
def test_shape_that_a_model_cannot_take(name, shape):
    refuse(config(name), shape, 10, name, str(shape), "model=mlp")


def test_shape_that_only_the_forward_pass_refuses():
    refuse({"_target_": f"{__name__}.fixed_model", "name": "mine"}, MNIST, 10, "mine", str(MNIST), "model=mlp")


def test_wrong_number_of_outputs():
    refuse({"_target_": f"{__name__}.fixed_model", "outputs": 4}, DIGITS, 10, "(2, 4)", "(2, 10)")


@pytest.mark.parametrize(
    ("cfg", "expected"),
    [
        ({}, "_target_"),
        ({"_target_": "no.such.factory"}, "no.such.factory"),
        ({"_target_": "benchmarks.models.LeNet6"}, "LeNet6"),
        ({"_target_": f"{__name__}.not_a_model"}, "nn.Module"),
        ({"_target_": f"{__name__}.MNIST"}, "MNIST"),
        ({"_target_": "benchmarks.models.MLP", "depth": 3}, "depth"),
        ({"_target_": "benchmarks.models.MLP", "activation": "step"}, "relu, sigmoid, tanh"),
        ({"_target_": "benchmarks.models.MLP", "widths": [0]}, "model.widths"),
        ({"_target_": "benchmarks.models.VGG", "depth": 12}, "11, 13, 16, 19"),
        ({"_target_": "benchmarks.models.VGG", "width": 0}, "model.width"),
        ({"_target_": "benchmarks.models.ResNet", "depth": 21}, "6n + 2"),
    ],
)
def test_configurations_that_make_no_model(cfg, expected):
    refuse(cfg, CIFAR, 10, expected)
