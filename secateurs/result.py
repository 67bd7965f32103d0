"""The pruned network, how it was obtained, and what can be done with it: fine-tune, save, export."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn

from methods.errors import BadInput
from methods.pruned import Pruned
from methods.pruner import Pruner
from secateurs.inputs import Inputs, Samples

if TYPE_CHECKING:
    from benchmarks.training.loop import History

EXAMPLES = 4  # number of samples that are kept for saving, exporting and checking the network


@dataclass
class PrunedNetwork:
    """What :func:`secateurs.prune` and :func:`secateurs.load` return.

    Attributes:
        model: the pruned network, of the class of the original: physically smaller for nodes, of the same shapes with
            zeros for edges.
        achieved: ``keep`` (fraction of the units that stayed), ``compression`` (dense / remaining parameters) and
            ``speedup`` (dense / remaining MACs), and ``latency`` where that was the budget.
        layers: per layer or coupled group, its ``name``, ``units`` before, units ``kept``, and what the method reports.
        left_alone: for each layer or group that was not pruned, the path of its (first) layer and the reason.
        unit: ``node`` or ``edge``.
        masks: for edges, parameter name -> boolean mask of the remaining weights, which training has to respect.
        note: what a user should know, for instance that only a nearby size was reachable.
        steps: per step of the schedule, the requested and the achieved budget.
        seconds: time that pruning took, without the training in between.
        dense: the network that was pruned; None for a network that was loaded.
        pruner: the method; None for a network that was loaded.
        example: the arguments (positional, by keyword) of a call with a few samples; None for a network that a cell
            saved.
    """

    model: nn.Module
    achieved: dict[str, float] = field(default_factory=dict)
    layers: list[dict[str, Any]] = field(default_factory=list)
    left_alone: dict[str, str] = field(default_factory=dict)
    unit: str = "node"
    masks: dict[str, Tensor] = field(default_factory=dict)
    note: str | None = None
    steps: list[dict[str, Any]] = field(default_factory=list)
    seconds: float = 0.0
    dense: nn.Module | None = field(default=None, repr=False)
    pruner: Pruner | None = field(default=None, repr=False)
    example: tuple[tuple[Any, ...], dict[str, Any]] | None = field(default=None, repr=False)

    @classmethod
    def of(cls, found: Pruned, dense: nn.Module, samples: Samples, pruner: Pruner) -> PrunedNetwork:
        """The result ``found`` of pruning the network ``dense``."""
        return cls(
            found.model,
            found.achieved,
            found.layers,
            found.left_alone,
            found.unit,
            found.masks,
            found.note,
            found.steps,
            found.seconds,
            dense,
            pruner,
            samples.first(min(EXAMPLES, len(samples)), torch.device("cpu")),
        )

    def finetune(
        self,
        inputs: Inputs,
        labels: Tensor,
        *,
        epochs: int,
        learning_rate: float = 0.01,
        optimizer: Literal["sgd", "adam", "adamw"] = "sgd",
        batch_size: int = 128,
        validation: float | tuple[Inputs, Tensor] = 0.1,
        seed: int = 0,
        **settings: Any,
    ) -> History:
        """Train the pruned network in place with the suite's trainer; masked weights stay zero.

        The network ends with the weights of its best epoch on the validation samples: the one with the highest
        accuracy and, among equals, the lowest loss; for regression, the one with the lowest loss.

        Args:
            inputs: (n, ...) training samples, as for :func:`secateurs.prune`.
            labels: (n,) int64 classes (cross-entropy), or (n, d) floating-point values (mean squared error).
            epochs: passes over the training samples.
            learning_rate: the peak rate; it falls along half a cosine unless ``schedule`` says otherwise.
            optimizer: ``sgd`` (momentum 0.9), ``adam`` or ``adamw``.
            batch_size: samples per step.
            validation: samples that choose the best epoch: the fraction of the training samples to hold out for this
                (0 for none: the last epoch counts), or separate inputs and labels.
            seed: root of the random order of samples, of dropout, and of the choice of held-out samples.
            settings: any other setting of the trainer by its name in conf/trainer/default.yaml;
                ``distil={"temperature": 4.0, "weight": 0.5}`` uses the dense network as the teacher.

        Returns:
            A row per epoch, the best epoch, the seconds, and why training stopped early, if it did (``collapsed``).

        Raises:
            BadInput: an unknown setting, or samples that do not fit.
        """
        from secateurs.tuning import finetune

        given = {"epochs": epochs, "learning_rate": learning_rate, "optimizer": optimizer, "batch_size": batch_size}
        return finetune(self.model, self.masks, inputs, labels, validation, seed, given | settings, self.dense)

    def save(self, folder: Path | str) -> Path:
        """Write the network to ``folder``, without pickle: ``weights.safetensors`` and ``pruned.json``.

        Args:
            folder: created if needed; a network in it is replaced.

        Returns:
            The path of the JSON.

        Raises:
            BadInput: the network could not be loaded again unchanged; nothing is written then.
        """
        from secateurs.storing import FACTS, save

        facts = {name: getattr(self, name) for name in FACTS}
        return save(Path(folder), self.model, self.masks, self.needed_example(), facts)

    def to_onnx(self, file: Path | str) -> Path:
        """Write the network as ONNX for any number of samples at once.

        Args:
            file: created, or replaced.

        Returns:
            Its path.

        Raises:
            BadInput: packages are missing (``pip install "secateurs[onnx]"``), or the network cannot be exported.
        """
        from secateurs.storing import to_onnx

        return to_onnx(self.model, self.needed_example(), Path(file))

    def needed_example(self) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The arguments of a call with a few samples.

        Raises:
            BadInput: there are none.
        """
        if self.example is None:
            raise BadInput("this network was saved by a cell, without samples; python -m benchmarks.export exports it")
        return self.example


def load(folder: Path | str, model: nn.Module | None = None) -> PrunedNetwork:
    """The network that :meth:`PrunedNetwork.save` has written to ``folder``, or a cell with ``save=true``.

    Args:
        folder: where the network was saved. Its files name classes, which are imported: load only folders that you
            trust.
        model: the network that was pruned, or another one of the same class and structure, with any weights; needed
            only where a class or an attribute cannot be imported by name. It is left unchanged.

    Returns:
        The network on the CPU, in evaluation mode, with its masks.

    Raises:
        BadInput: the folder holds no network, it is damaged, a later version wrote it, or ``model`` is needed.
    """
    from secateurs.storing import read

    found = read(Path(folder), model)
    return PrunedNetwork(found.model, masks=found.masks, example=found.example, **found.facts)
