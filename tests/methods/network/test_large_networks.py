"""Encoders and networks for large images: their heads and channels are found, and in how many runs."""

import pytest
import torch
from networks import noise
from test_influence import compare
from torch import nn
from torch.nn import functional

from methods.network import coupling
from methods.network.coupling import find_groups
from methods.network.graph import NetworkGraph
from methods.network.influence import find_influences
from methods.network.mockup import Mockup
from methods.network.reduced import reduced


class Encoder(nn.Module):
    """BERT's layout: attention and a perceptron, each added to the stream and normalised after that."""

    def __init__(self, layers, width, heads, hidden, way="fused"):
        super().__init__()
        self.head_width, self.way = width // heads, way
        self.embed, self.places = nn.Linear(6, width), nn.Parameter(0.02 * noise(1, 32, width))
        self.blocks = nn.ModuleList(
            nn.ModuleDict(
                {
                    **{name: nn.Linear(width, width) for name in ("query", "key", "value", "out")},
                    **{name: nn.LayerNorm(width) for name in ("norm1", "norm2")},
                    "qkv": nn.Linear(width, 3 * width) if way == "one layer" else nn.Identity(),
                    "up": nn.Linear(width, hidden),
                    "down": nn.Linear(hidden, width),
                }
            )
            for _ in range(layers)
        )
        self.head = nn.Linear(width, 3)

    def attend(self, block, x):
        if self.way == "one layer":
            parts = block["qkv"](x).unflatten(2, (3, -1, self.head_width)).permute(2, 0, 3, 1, 4)
        else:
            # libraries write the sizes of what came in: copies of queries alone would become heads
            shape = (*x.shape[:-1], -1, self.head_width) if self.way == "as libraries" else None
            parts = [block[name](x) for name in ("query", "key", "value")]
            parts = [part.view(shape) if shape else part.unflatten(2, (-1, self.head_width)) for part in parts]
            parts = [part.transpose(1, 2) for part in parts]
        if self.way == "by hand":
            query, key, value = parts
            read = (query @ key.transpose(2, 3) / self.head_width**0.5).softmax(-1) @ value
        else:
            read = functional.scaled_dot_product_attention(*parts)
        return block["out"](read.transpose(1, 2).flatten(2))

    def forward(self, x):
        x = self.embed(x) + self.places[:, : x.shape[1]]
        for block in self.blocks:
            x = block["norm1"](x + self.attend(block, x))
            x = block["norm2"](x + block["down"](functional.gelu(block["up"](x))))
        return self.head(x[:, 0])


def tokens(number=5):
    return torch.randn(1, number, 6, generator=torch.Generator().manual_seed(1))


def made(make):
    torch.manual_seed(3)
    return make().eval()


WAYS = ["fused", "by hand", "one layer", "as libraries"]
WIDTHS = [(32, 4), (30, 5), (36, 2), (33, 3)]  # heads of 8, 6, 18, 11 units


@pytest.mark.parametrize(
    ("way", "width", "heads"),
    [(way, *WIDTHS[(first + second) % 4]) for first, way in enumerate(WAYS) for second in (0, 1)],
)
@pytest.mark.slow
def test_heads_of_any_width_are_what_the_slow_way_finds(way, width, heads):
    model = made(lambda: Encoder(2, width, heads, 40, way))
    compare(model, tokens(), most=3 * width)
    groups = {group.name: (group.size, group.width) for group in NetworkGraph(model, tokens()).groups}
    first = "qkv" if way == "one layer" else "query"
    own = {f"blocks.{number}.{first}": (heads, width // heads * (3 if way == "one layer" else 1)) for number in (0, 1)}
    assert groups == own | {f"blocks.{number}.up": (40, 1) for number in (0, 1)}


def copies_run(monkeypatch, find, whole=False) -> int:
    """Copies of the sample in all runs of the mock-up together, or in those of the whole network."""
    run, total = Mockup.run, []

    def counting(self, change, observe, copies=1, changed=1):
        total.append(copies if whole else max(copies, changed))
        return run(self, change, observe, copies, changed)

    monkeypatch.setattr(Mockup, "run", counting)
    find()
    return sum(total)


@pytest.mark.parametrize("way", ["fused", "as libraries"])
def test_heads_are_not_tried_unit_by_unit(way, monkeypatch):
    mockup = Mockup(made(lambda: Encoder(1, 256, 8, 64, way)), tokens())
    copies = copies_run(monkeypatch, lambda: find_influences(mockup))
    alone = 3 * 2 * 256  # the units of queries, keys and values, upwards and downwards
    assert 3 * 2 * 32 < copies < alone / 2


def test_blocks_share_the_runs_of_the_whole_network(monkeypatch):
    copies = []
    for layers in (2, 6):
        mockup = Mockup(made(lambda layers=layers: Encoder(layers, 64, 4, 80, "as libraries")), tokens())
        with monkeypatch.context() as patch:
            copies.append(copies_run(patch, lambda mockup=mockup: find_influences(mockup), whole=True))
    assert copies[1] < 1.5 * copies[0]


class Residual(nn.Module):
    def __init__(self, pooled=True, positions=False):
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 6, 3, stride=2, padding=1), nn.BatchNorm2d(6)
        self.inner, self.outer = nn.Conv2d(6, 9, 3, padding=1), nn.Conv2d(9, 6, 1)
        self.head = nn.Linear(6 if pooled else 6 * 48 * 48, 4)
        self.pooled, self.large = pooled, nn.Conv2d(6, 6, 1)
        self.positions = nn.Parameter(noise(1, 1, 48, 48)) if positions else None

    def forward(self, x):
        x = self.norm(self.stem(x)).relu()
        x = x + self.outer(self.inner(x).relu())
        x = x if self.positions is None else x + self.positions
        return self.head(x.mean((2, 3)) if self.pooled else x.flatten(1))


class InPlace(Residual):
    """What passes by is added to what a branch returned, which keeps its name, another name, or is seen by a view."""

    def __init__(self, way):
        super().__init__()
        self.way = way

    def forward(self, x):
        x = self.norm(self.stem(x)).relu()
        branch = same = self.outer(self.inner(x).relu())
        if self.way == "augmented":
            branch += x
        elif self.way == "another name":
            same.add_(x)
        else:
            branch[:, :, :] += x
        return self.head(branch.mean((2, 3)))


@pytest.mark.parametrize("way", ["augmented", "another name", "view"])
def test_sums_in_place_are_found_in_the_runs_of_parts(way, monkeypatch):
    """The branch has one copy where only the stem changes; a view of it cannot get more, and the whole is run."""
    image, copies = IMAGE[..., :32, :32], []
    monkeypatch.setattr("methods.network.influence.MOST_ALL_AT_ONCE", 0)
    for model in (made(Residual), made(lambda: InPlace(way))):
        mockup, found = Mockup(model, image), {}
        with monkeypatch.context() as patch:
            copies.append(copies_run(patch, lambda m=mockup, f=found: f.update(find_influences(m)), whole=True))
        assert torch.equal(mockup.example, image)
        assert torch.equal(found["outer"].pairs["head"], torch.arange(6, device="cpu")[:, None].expand(-1, 2))
        assert torch.equal(found["stem"].pairs["head"], found["outer"].pairs["head"])
    assert (copies[1] == copies[0]) is (way != "view")


class OtherWhenLarge(Residual):
    """Large images take another way, of the same layers."""

    def forward(self, x):
        large = x.shape[-1] > 80
        x = self.norm(self.stem(x)).relu()
        y = self.inner(x).relu()
        return self.head((x + self.outer(y.flip(1) if large else y)).mean((2, 3)))


class FixedWhenLarge(Residual):
    """Large images take a way that needs all channels."""

    def forward(self, x):
        large = x.shape[-1] > 80
        x = self.norm(self.stem(x)).relu()
        y = self.inner(x).relu()
        y = y.reshape(len(y), 9, *y.shape[2:]) if large else y
        return self.head((x + self.outer(y)).mean((2, 3)))


IMAGE = torch.randn(1, 3, 96, 96, generator=torch.Generator().manual_seed(6))
LARGE = {
    "pooled": (Residual, True),
    "flattened": (lambda: Residual(pooled=False), False),
    "positions": (lambda: Residual(positions=True), False),
    "other order when large": (OtherWhenLarge, True),
    "fixed when large": (FixedWhenLarge, True),
}


@pytest.mark.parametrize("residual", [False, True])
@pytest.mark.parametrize("name", LARGE)
def test_a_smaller_image_gives_the_same_groups_or_is_not_used(name, residual, monkeypatch):
    factory, smaller = LARGE[name]
    model = made(factory)
    assert (reduced(Mockup(model, IMAGE)) is not None) is smaller
    assert reduced(Mockup(model, IMAGE[..., :64, :64])) is None if smaller else True
    groups, left = find_groups(model, IMAGE, residual)
    monkeypatch.setattr(coupling, "reduced", lambda mockup: None)
    expected, reasons = find_groups(model, IMAGE, residual)
    assert left == reasons
    assert [(group.name, group.size, group.writers) for group in groups] == [
        (group.name, group.size, group.writers) for group in expected
    ]
    for group, other in zip(groups, expected, strict=True):
        for one, two in zip(group.readers, other.readers, strict=True):
            assert one.name == two.name and torch.equal(one.columns, two.columns)
    assert ("inner" in left) is (name == "fixed when large")


def test_the_search_runs_on_less_than_the_whole_image(monkeypatch):
    model, seen = made(Residual), []
    run = Mockup.run

    def counting(self, *arguments):
        seen.append(tuple(self.example.shape[2:]))
        return run(self, *arguments)

    monkeypatch.setattr(Mockup, "run", counting)
    find_groups(model, IMAGE, False)
    assert seen.count((96, 96)) == 2  # what is read, and the confirmation
    assert seen.count((64, 64)) > 10
