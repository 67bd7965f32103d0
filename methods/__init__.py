"""Pruning methods: allocation + selection + compensation (+ schedule). This package never imports benchmarks.

``from methods import Selection, NodeLayer`` and so on: what a method is written with. Nothing is imported before it is
asked for.
"""

from typing import TYPE_CHECKING

from methods.door import door

if TYPE_CHECKING:
    from methods.allocation import Allocation
    from methods.budgets.budget import Budget
    from methods.compensation import Compensation
    from methods.errors import BadInput, Collapsed, Skipped
    from methods.layers.seen import EdgeLayer, Layer, NodeLayer
    from methods.layers.statistics import Calibration, Moments
    from methods.pruned import Pruned
    from methods.pruner import Pruner
    from methods.schedule import Schedule
    from methods.selection import Selection

_HOMES = {
    "Allocation": "methods.allocation",
    "BadInput": "methods.errors",
    "Budget": "methods.budgets.budget",
    "Calibration": "methods.layers.statistics",
    "Collapsed": "methods.errors",
    "Compensation": "methods.compensation",
    "EdgeLayer": "methods.layers.seen",
    "Layer": "methods.layers.seen",
    "Moments": "methods.layers.statistics",
    "NodeLayer": "methods.layers.seen",
    "Pruned": "methods.pruned",
    "Pruner": "methods.pruner",
    "Schedule": "methods.schedule",
    "Selection": "methods.selection",
    "Skipped": "methods.errors",
}

__all__ = [
    "Allocation", "BadInput", "Budget", "Calibration", "Collapsed", "Compensation", "EdgeLayer", "Layer", "Moments",
    "NodeLayer", "Pruned", "Pruner", "Schedule", "Selection", "Skipped",
]  # fmt: skip


__getattr__, __dir__ = door(__name__, _HOMES)
