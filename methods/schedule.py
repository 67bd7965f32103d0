"""Schedules decide when units are removed: at once, or in steps with training in between."""

from __future__ import annotations

from methods.budgets.budget import Budget
from methods.errors import BadInput

MOST_STEPS = 10_000
SHAPES = ("linear", "cubic", "exponential")


class Schedule:
    """Prunes in one step to the whole budget, without training in between (one-shot).

    Attributes:
        rewind: ``none`` continues training from the pruned weights, ``init`` puts the survivors back to their initial
            values, ``new`` gives them other initial values, an integer k those after epoch k of the dense training (0:
            the initial ones).
        recipe: which of the trainer's recipes follows each pruning: ``train``, the dense network's (from the epoch that
            was rewound to), or ``finetune``. A rewound network has to learn again and therefore gets the full recipe
            (Frankle & Carbin 2019; Liu et al. 2019); others are fine-tuned.
        between: whether there is training between the steps.
        origin: which network is pruned: ``trained``, or ``init``, the network as it was initialised, which then gets
            the full recipe (pruning before training).
    """

    origin: str = "trained"
    rewind: str | int = "none"
    between: bool = True
    _recipe: str | None = None

    @property
    def recipe(self) -> str:
        """``train`` or ``finetune``, see the class."""
        return self._recipe or ("finetune" if self.rewind == "none" and self.origin == "trained" else "train")

    @property
    def first_epoch(self) -> int:
        """How many epochs of the full recipe trained the weights to which survivors are rewound."""
        return self.rewind if isinstance(self.rewind, int) else 0

    def targets(self, budget: Budget) -> list[Budget]:
        """The budgets of the steps, the last one being the request."""
        return [budget]


class Iterative(Schedule):
    """Prunes in n steps whose remaining fraction falls from 1 to the budget.

    Args:
        steps: number of steps n.
        shape: ``linear`` 1 - (1 - r) t/n; ``cubic`` r + (1 - r)(1 - t/n)^3 (Zhu & Gupta, 2017); ``exponential`` r^(t/n)
            (the same fraction of the survivors at each step, as in the lottery ticket procedure).
        rewind: ``none``, ``init``, ``new`` or an epoch number; see :class:`Schedule`.
        recipe: ``train`` or ``finetune``; None: as :class:`Schedule` says.
        between: whether to train between steps. If false, curvature and moments are still measured again at each step.
    """

    def __init__(
        self,
        steps: int = 5,
        shape: str = "exponential",
        rewind: str | int = "none",
        recipe: str | None = None,
        between: bool = True,
    ) -> None:
        if steps > MOST_STEPS:
            raise BadInput(
                f"schedule.steps={steps} is above {MOST_STEPS}, and each step trains the network: type schedule.steps=5"
            )
        if steps < 1 or steps != int(steps):
            raise BadInput(
                f"schedule.steps={steps} is not a whole number from 1, how often to prune: type schedule.steps=5"
            )
        if shape not in SHAPES:
            raise BadInput(f"schedule.shape={shape} is unknown; choose from {', '.join(SHAPES)}")
        if not (rewind in ("none", "init", "new") or (isinstance(rewind, int) and rewind >= 0)):
            raise BadInput(f"schedule.rewind={rewind} is unknown; choose none, init, new or an epoch number such as 2")
        if recipe not in (None, "train", "finetune"):
            raise BadInput(f"schedule.recipe={recipe} is unknown; choose train or finetune, or null for the usual one")
        if not between and rewind != "none":
            raise BadInput(
                "schedule.between=false goes from step to step without training, and rewound weights were never "
                "trained: type schedule.rewind=none"
            )
        self.steps, self.shape, self.rewind, self._recipe, self.between = steps, shape, rewind, recipe, between

    def targets(self, budget: Budget) -> list[Budget]:
        """The budgets after each of the n steps."""
        return [budget.at(self._remaining(t / self.steps, budget.remaining)) for t in range(1, self.steps)] + [budget]

    def _remaining(self, time: float, final: float) -> float:
        if self.shape == "linear":
            return 1 - (1 - final) * time
        if self.shape == "cubic":
            return final + (1 - final) * (1 - time) ** 3
        return final**time


class BeforeTraining(Iterative):
    """Prunes the network as it was initialised, in ``steps`` rounds without training, and then trains it in full.

    SNIP and GraSP prune in one round, SynFlow in a hundred (Tanaka et al., 2020); see ``methods.unstructured``.

    Args:
        steps: number of rounds; whatever the method measures is measured again in each.
        shape: how the remaining fraction falls over the rounds; see :class:`Iterative`.
    """

    origin = "init"

    def __init__(self, steps: int = 1, shape: str = "exponential") -> None:
        super().__init__(steps=steps, shape=shape, between=False)
