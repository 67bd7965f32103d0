"""When units are removed: at once, or in steps with training in between."""

from __future__ import annotations

from methods.budgets.budget import Budget
from methods.errors import BadInput

MOST_STEPS = 10_000
SHAPES = ("linear", "cubic", "exponential")


class Schedule:
    """One-shot: the whole budget in one step, no training in between.

    Attributes:
        rewind: ``none`` goes on training from the pruned weights, ``init`` puts the survivors back to their initial
            values, an integer k to those after epoch k of the dense training (0: the initial ones).
    """

    rewind: str | int = "none"

    def targets(self, budget: Budget) -> list[Budget]:
        """The budgets of the steps, the last one being the request."""
        return [budget]


class Iterative(Schedule):
    """n steps whose remaining fraction falls from 1 to the budget.

    Args:
        steps: number of steps n.
        shape: ``linear`` 1 - (1 - r) t/n; ``cubic`` r + (1 - r)(1 - t/n)^3 (Zhu & Gupta, 2017); ``exponential`` r^(t/n)
            (the same fraction of the survivors at each step, as in the lottery ticket procedure).
        rewind: ``none``, ``init`` or an epoch number; see :class:`Schedule`.
    """

    def __init__(self, steps: int = 5, shape: str = "exponential", rewind: str | int = "none") -> None:
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
        if not (rewind in ("none", "init") or (isinstance(rewind, int) and rewind >= 0)):
            raise BadInput(f"schedule.rewind={rewind} is unknown; choose none, init or an epoch number such as 2")
        self.steps, self.shape, self.rewind = steps, shape, rewind

    def targets(self, budget: Budget) -> list[Budget]:
        """Budgets after each of the n steps."""
        return [budget.at(self._remaining(t / self.steps, budget.remaining)) for t in range(1, self.steps)] + [budget]

    def _remaining(self, time: float, final: float) -> float:
        if self.shape == "linear":
            return 1 - (1 - final) * time
        if self.shape == "cubic":
            return final + (1 - final) * (1 - time) ** 3
        return final**time
