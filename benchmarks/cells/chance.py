"""The score of a network that has learned nothing; a network that does no better has collapsed."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from benchmarks.training.scoring import Score
from methods.layers.statistics import UNLABELLED

LEVEL = 0.01  # how often a network at chance may pass for one that has learned something


@dataclass(frozen=True)
class Chance:
    """What guessing achieves on a split.

    Attributes:
        accuracy: share of the commonest class, which a constant answer scores; None for regression and language.
        limit: accuracy that guessing exceeds in at most one of a hundred splits of this size, or for regression the
            mean squared error of the best constant answer, or for language the entropy of the tokens' frequencies.
    """

    accuracy: float | None
    limit: float

    @classmethod
    def of(cls, targets: Tensor) -> Chance:
        """Chance on samples with these targets: (n,) or (n, T) classes, or (n,) or (n, d) numbers."""
        if targets.is_floating_point():
            return cls(None, float(targets.double().var(0, correction=0).mean()))
        if targets.dim() > 1:
            shares = torch.bincount(targets[targets != UNLABELLED].long().flatten()).double()
            return cls(None, float(torch.special.entr(shares / shares.sum()).sum()))
        from scipy.stats import binom

        share = float(torch.bincount(targets.long()).max()) / len(targets)
        return cls(share, float(binom.ppf(1 - LEVEL, len(targets), share)) / len(targets))

    def explains(self, score: Score) -> str | None:
        """The reason to call a network collapsed; None if it is better than guessing."""
        if score.accuracy is None:
            if score.loss < self.limit:
                return None
            return f"validation loss {score.loss:.4g}, no better than a constant answer ({self.limit:.4g})"
        if score.accuracy > self.limit:
            return None
        return (
            f"validation accuracy {score.accuracy:.2%}, which guessing explains (the commonest class has "
            f"{self.accuracy:.2%}, up to {self.limit:.2%} by chance)"
        )
