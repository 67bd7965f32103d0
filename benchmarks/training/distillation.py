"""Distillation: the pruned network also learns the dense network's outputs for all classes.

Source: Hinton, Vinyals and Dean, "Distilling the knowledge in a neural network" (arXiv 1503.02531), section 2. With
logits v of the teacher and z of the student, softmax at temperature T and a weight w, the loss of a sample is

    (1 - w) CE(y, softmax(z)) + w T^2 KL(softmax(v / T) || softmax(z / T)).

T^2 keeps the two parts' gradients of one size at every T. The paper has the cross-entropy with the soft targets instead
of KL; the two differ by the soft targets' own entropy, which no weight of the student changes.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional


@dataclass  # not frozen: Fabric, which hands it to other processes, would refuse that
class Teacher:
    """A trained network whose logits are learned.

    Attributes:
        model: the network; it is neither trained nor moved.
        temperature: T, above 0.
        weight: w in (0, 1]; 1 leaves the labels out.
    """

    model: nn.Module
    temperature: float
    weight: float

    def placed(self, device: torch.device) -> Teacher:
        """The same with a frozen copy of the network on ``device``, in evaluation mode."""
        model = copy.deepcopy(self.model).to(device).eval().requires_grad_(False)
        return Teacher(model, self.temperature, self.weight)

    def loss(self, x: Tensor, outputs: Tensor, plain: Tensor) -> Tensor:
        """The mean loss of a batch: ``plain`` is that by the labels, ``outputs`` are the student's (..., classes)."""
        with torch.no_grad():
            taught = self.model(x)
        return (1 - self.weight) * plain + self.weight * soft_loss(outputs, taught, self.temperature)


def soft_loss(outputs: Tensor, taught: Tensor, temperature: float) -> Tensor:
    """T^2 KL(softmax(v / T) || softmax(z / T)), the mean over (..., classes) logits z ``outputs`` and v ``taught``."""
    student = functional.log_softmax(outputs.float().flatten(0, -2) / temperature, dim=1)
    teacher = functional.log_softmax(taught.float().flatten(0, -2) / temperature, dim=1)
    return temperature**2 * functional.kl_div(student, teacher, reduction="batchmean", log_target=True)
