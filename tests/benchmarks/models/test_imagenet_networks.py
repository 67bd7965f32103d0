"""ResNet-18/34/50 and MobileNetV2 at 224 pixels: their published sizes, and weight files by the names of others."""

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from benchmarks.models import ImageNetResNet, MobileNetV2, mobilenet
from benchmarks.settings.home import CONF
from benchmarks.settings.sections import check_types
from benchmarks.sweeps.composition import Composer
from benchmarks.training.weights import load_weights
from methods.errors import BadInput
from methods.network.graph import NetworkGraph
from methods.seeds import stream

PUBLISHED = {18: 11_689_512, 34: 21_797_672, 50: 25_557_032}  # read at pytorch.org, torchvision.models.resnet18 ...
LARGE = (3, 224, 224)


def parameters(model):
    return sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize("depth", PUBLISHED)
def test_resnets_have_as_many_parameters_as_published(depth):
    with torch.device("meta"):
        assert parameters(ImageNetResNet(depth, shape=LARGE, classes=1000)) == PUBLISHED[depth]


def test_mobilenet_has_as_many_parameters_as_published_and_the_papers_strides():
    with torch.device("meta"):
        model = MobileNetV2(large=True, shape=LARGE, classes=1000)
        assert parameters(model) == 3_504_872
        assert model.blocks(model.conv1(torch.empty(1, *LARGE))).shape == (1, 320, 7, 7)
        small = MobileNetV2(shape=(3, 32, 32), classes=10)
        assert small.blocks(small.conv1(torch.empty(1, 3, 32, 32))).shape == (1, 320, 4, 4)


def test_stages_halve_the_image_and_bottlenecks_have_their_stride_in_the_middle():
    with torch.device("meta"):
        model = ImageNetResNet(50, shape=LARGE, classes=1000)
        x = model.maxpool(model.conv1(torch.empty(1, *LARGE)))
        assert x.shape == (1, 64, 56, 56)
        for stage, (channels, size) in zip(
            (model.layer1, model.layer2, model.layer3, model.layer4),
            ((256, 56), (512, 28), (1024, 14), (2048, 7)),
            strict=True,
        ):
            x = stage(x)
            assert x.shape == (1, channels, size, size)
    assert model.layer2[0].conv1.stride == (1, 1) and model.layer2[0].conv2.stride == (2, 2)


def test_a_block_is_what_the_paper_says():
    """Against a plain writing-down of the formula with functional operations."""
    torch.manual_seed(0)
    model = ImageNetResNet(18, 0.1, shape=(3, 32, 32), classes=4).eval()
    block, x = model.layer2[0], torch.randn(2, 6, 8, 8)
    f = nn.functional
    inner = f.relu(block.bn1(f.conv2d(x, block.conv1.weight, stride=2, padding=1)))
    inner = block.bn2(f.conv2d(inner, block.conv2.weight, padding=1))
    shortcut = block.downsample[1](f.conv2d(x, block.downsample[0].weight, stride=2))
    assert torch.allclose(block(x), f.relu(inner + shortcut), atol=1e-6)


@pytest.mark.parametrize("words", [{"depth": 20}, {"width": 0}, {"shape": (3, 16, 16)}, {"shape": (8,)}])
def test_what_cannot_be_built_is_refused(words):
    with pytest.raises(BadInput):
        ImageNetResNet(**({"shape": LARGE, "classes": 10} | words))


def randomised(model):
    draw = stream(0, "weights")
    state = {name: torch.randn(value.shape, generator=draw) if value.is_floating_point() else value + 3
             for name, value in model.state_dict().items()}  # fmt: skip
    model.load_state_dict(state)
    return model


def test_a_file_of_torchvision_or_timm_is_a_resnet_as_it_is(tmp_path):
    """The names, as both write them; the oldest files lack the numbers of batches."""
    model = randomised(ImageNetResNet(18, 0.1, shape=(3, 32, 32), classes=4))
    names = set(model.state_dict())
    assert {"conv1.weight", "bn1.running_var", "layer1.0.conv2.weight", "layer4.1.bn2.bias", "fc.bias"} <= names
    assert {"layer3.0.downsample.0.weight", "layer3.0.downsample.1.running_mean"} <= names
    deep = set(ImageNetResNet(50, 0.02, shape=(3, 32, 32), classes=4).state_dict())
    assert {"layer1.0.downsample.0.weight", "layer4.2.conv3.weight", "layer4.2.bn3.weight"} <= deep
    old = {name: value for name, value in model.state_dict().items() if "num_batches" not in name}
    torch.save(old, tmp_path / "resnet18.pth")
    other = ImageNetResNet(18, 0.1, shape=(3, 32, 32), classes=4)
    load_weights(other, tmp_path / "resnet18.pth")
    assert all(torch.equal(value, other.state_dict()[name]) for name, value in old.items())


class TheirBlock(nn.Module):
    """A block of torchvision's MobileNetV2, in names and order of its parts."""

    def __init__(self, channels, out, expansion, stride):
        super().__init__()
        hidden, parts = channels * expansion, []

        def conv(before, after, size, stride=1, groups=1):
            return nn.Sequential(
                nn.Conv2d(before, after, size, stride, size // 2, groups=groups, bias=False),
                nn.BatchNorm2d(after),
                nn.ReLU6(),
            )

        if expansion != 1:
            parts.append(conv(channels, hidden, 1))
        parts += [conv(hidden, hidden, 3, stride, hidden), nn.Conv2d(hidden, out, 1, bias=False), nn.BatchNorm2d(out)]
        self.conv, self.skip = nn.Sequential(*parts), stride == 1 and channels == out

    def forward(self, x):
        return x + self.conv(x) if self.skip else self.conv(x)


class Theirs(nn.Module):
    """Torchvision's MobileNetV2 in names and order of its parts, with narrow layers."""

    def __init__(self, width, classes):
        super().__init__()
        channels = max(1, round(32 * width))
        first = nn.Sequential(nn.Conv2d(3, channels, 3, 2, 1, bias=False), nn.BatchNorm2d(channels), nn.ReLU6())
        features = [first]
        for expansion, full, number, stride in [
            (1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1)
        ]:  # fmt: skip
            for place in range(number):
                out = max(1, round(full * width))
                features.append(TheirBlock(channels, out, expansion, 1 if place else stride))
                channels = out
        features.append(nn.Sequential(nn.Conv2d(channels, 64, 1, bias=False), nn.BatchNorm2d(64), nn.ReLU6()))
        self.features = nn.Sequential(*features)
        self.classifier = nn.Sequential(nn.Dropout(0.2), nn.Linear(64, classes))

    def forward(self, x):
        return self.classifier(self.features(x).mean((2, 3)))


def test_a_file_of_torchvision_is_the_same_mobilenet(tmp_path, monkeypatch):
    monkeypatch.setattr(mobilenet, "LAST", 64)
    torch.manual_seed(1)
    theirs = Theirs(0.12, 5).eval()
    save_file(theirs.state_dict(), tmp_path / "mobilenet_v2.safetensors")
    ours = MobileNetV2(0.12, True, shape=(3, 64, 64), classes=5).eval()
    x = torch.randn(2, 3, 64, 64)
    assert not torch.allclose(ours(x), theirs(x), atol=1e-4)
    load_weights(ours, tmp_path / "mobilenet_v2.safetensors")
    assert torch.allclose(ours(x), theirs(x), atol=1e-5)


def test_a_file_of_timm_is_the_same_mobilenet(tmp_path, monkeypatch):
    """Timm's names, written down for some of each kind; the file is made of ours by them."""
    monkeypatch.setattr(mobilenet, "LAST", 64)
    ours = randomised(MobileNetV2(0.12, True, shape=(3, 64, 64), classes=5))
    _, timm = ours.other_names()
    pairs = {
        "conv_stem.weight": "conv1.weight",
        "bn1.running_mean": "norm1.running_mean",
        "blocks.0.0.conv_dw.weight": "blocks.0.layers.depthwise.weight",
        "blocks.0.0.bn1.weight": "blocks.0.layers.norm2.weight",
        "blocks.0.0.conv_pw.weight": "blocks.0.layers.project.weight",
        "blocks.0.0.bn2.bias": "blocks.0.layers.norm3.bias",
        "blocks.1.0.conv_pw.weight": "blocks.1.layers.expand.weight",
        "blocks.1.1.conv_pwl.weight": "blocks.2.layers.project.weight",
        "blocks.6.0.bn3.weight": "blocks.16.layers.norm3.weight",
        "conv_head.weight": "conv2.weight",
        "bn2.running_var": "norm2.running_var",
        "classifier.bias": "classifier.bias",
    }
    assert pairs.items() <= timm.items() and sorted(timm.values()) == sorted(ours.state_dict())
    save_file({name: ours.state_dict()[own].clone() for name, own in timm.items()}, tmp_path / "timm.safetensors")
    other = MobileNetV2(0.12, True, shape=(3, 64, 64), classes=5)
    load_weights(other, tmp_path / "timm.safetensors")
    assert all(torch.equal(value, other.state_dict()[name]) for name, value in ours.state_dict().items())


@pytest.mark.slow
@pytest.mark.parametrize(("depth", "groups"), [(18, 8), (50, 32)])
def test_the_inner_layers_of_every_block_are_groups_of_nodes(depth, groups):
    model = ImageNetResNet(depth, 0.05, shape=(3, 32, 32), classes=4).eval()
    found = NetworkGraph(model, torch.zeros(1, 3, 32, 32)).groups
    inner = [group for group in found if all("layer" in path for path in group.writers)]
    assert len(inner) == groups


SETS = ("imagenet", "imagenet64", "tiny_imagenet", "imagenette", "cifar100", "svhn", "fashion_mnist", "emnist")
SETS += ("food101", "flowers102", "pets", "shapes", "shards")


@pytest.mark.parametrize("name", SETS)
@pytest.mark.slow
def test_every_data_set_has_a_trainer_and_its_settings_are_sound(name):
    model = "resnet18" if name in ("imagenet", "food101", "pets") else "mlp"
    config = Composer(CONF).cell([f"dataset={name}", f"model={model}", "method=random"])
    check_types(config)
    section = config["dataset"]
    assert section["name"] == name and len(section["mean"]) == section["shape"][0]
    text = (CONF / "dataset" / f"{name}.yaml").read_text()
    assert name == "shards" or "Licence" in text
