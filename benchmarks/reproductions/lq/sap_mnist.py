"""SAP on MNIST with the paper's perceptron: remaining weights, accuracy, PQ and Gini index from step to step.

784-128-256-10. SAP(.5,1), SAP(1,2), lottery ticket and one-shot pruning in global scope, SAP(.5,1) and lottery ticket
also neuron by neuron. The remaining weights follow from the rules exactly, whatever the training does.
"""

from __future__ import annotations

from benchmarks.figures.sheet import Sheet
from benchmarks.reproductions import Outcome, Workplace
from benchmarks.reproductions.lq import _sap as sap

PAPER = f"{sap.PAPER}, Algorithm 1, section 4 (the paper has Fashion-MNIST)"
SETTING = (
    "MNIST, 10,000 training and validation images, all test images, perceptron 784-128-256-10 (135,680 prunable "
    "weights), {steps} prunings and {seeds} seeds; every training is {epochs} epochs of SGD (rate 0.1, momentum 0.9, "
    "Nesterov, weight decay 5e-4, batches of 100, gradient norm clipped to 1, cosine) from the initial weights; the "
    "paper trains 200 epochs on Fashion-MNIST for 30 prunings. Short training leaves a flatter weight vector, hence "
    "a lower PQ index at t = 0 and slower SAP. The epoch is chosen on validation images (the authors' code: on test "
    "images). 'pruned': accuracy after one more global step of 20 % without training. No table is published, so that "
    "no number here has a counterpart."
)


def run(work: Workplace) -> Outcome:
    """Six runs per seed."""
    epochs, steps, seeds = (1, 2, 2) if work.quick else (3, 8, 3)
    words = ["dataset=mnist", "model=mlp", "model.widths=[128,256]", "trainer=mnist", f"trainer.train.epochs={epochs}"]
    words += ["trainer.train.learning_rate=0.1", "trainer.train.batch_size=100", "trainer.train.clip_norm=1"]
    words += ["dataset.limit=1000", "dataset.limit_test=500"] if work.quick else ["dataset.limit=10000"]
    rows = []
    for seed in range(seeds):
        begin = sap.start(work.config([*words, f"seed={seed}"]), work)
        for each in (*sap.GLOBAL_RUNS, *sap.NEURON_RUNS):
            rows += sap.follow(each, begin, steps)
    return sap.outcome(rows, {}, SETTING.format(steps=steps, seeds=seeds, epochs=epochs))


def figures(outcome: Outcome) -> dict[str, Sheet]:
    """One board."""
    return {"steps": sap.board(outcome, f"Perceptron on MNIST: {sap.headline(outcome)}")}
