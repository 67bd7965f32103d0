"""One network of the zoo: how it is built, and what it reads."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Generator, Tensor, nn

from methods.seeds import derive_seed

Arguments = tuple[Tensor, ...] | Mapping[str, Tensor]  # of a call, by place or by keyword; n rows each
Draw = Callable[[int, Generator], Arguments]


@dataclass(frozen=True)
class Specimen:
    """One network.

    Attributes:
        name: the name in the table.
        about: what is particular about it, in a few words.
        make: a new network; its initial weights come from the global generator.
        draw: arguments of a call with n random samples.
        exports: whether a test writes it as ONNX; seconds each, so only where that tells something new.
        needs: the package that it is built from; empty for those written here.
    """

    name: str
    about: str
    make: Callable[[], nn.Module]
    draw: Draw
    exports: bool = False
    needs: str = ""

    def build(self) -> nn.Module:
        """The network in evaluation mode, with norms and vectors as after a training; the same each time."""
        with torch.random.fork_rng(devices=[]):
            torch.random.default_generator.manual_seed(derive_seed(0, f"zoo/{self.name}"))
            model = self.make()
            with torch.no_grad():
                for module in model.modules():
                    for parameter in module.parameters(recurse=False):
                        if parameter.dim() < 2:  # a norm that is still the identity, or a bias of zero, hides faults
                            parameter.add_(0.2 * torch.randn(parameter.shape))
                    if isinstance(getattr(module, "running_var", None), Tensor):
                        module.running_mean.normal_(std=0.3)  # type: ignore[operator, union-attr]
                        module.running_var.uniform_(0.5, 2)  # type: ignore[operator, union-attr]
        return model.eval()


def images(channels: int = 3, *sides: int) -> Draw:
    """Random images, (n, channels, *sides), 16 pixels a side unless given."""
    return lambda n, generator: (torch.randn(n, channels, *(sides or (16, 16)), generator=generator),)


def vectors(*shape: int) -> Draw:
    """Random numbers (n, *shape)."""
    return lambda n, generator: (torch.randn(n, *shape, generator=generator),)


def tokens(vocabulary: int = 50, length: int = 10, *, name: str | None = None) -> Draw:
    """Random token ids (n, length); by keyword where there is a name."""

    def draw(n: int, generator: Generator) -> Arguments:
        ids = torch.randint(3, vocabulary, (n, length), generator=generator)
        return (ids,) if name is None else {name: ids}

    return draw


def masked_tokens(vocabulary: int = 50, length: int = 10) -> Draw:
    """Token ids and a mask whose last places are padding in every second sample; by keyword."""

    def draw(n: int, generator: Generator) -> Arguments:
        ids = torch.randint(3, vocabulary, (n, length), generator=generator)
        mask = torch.ones(n, length, dtype=torch.int64)
        mask[1::2, length - 3 :] = 0
        return {"input_ids": ids, "attention_mask": mask}

    return draw
