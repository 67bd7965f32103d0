"""SAP on CIFAR-10 (JPEG) with a narrower version of the paper's CNN: remaining weights, accuracy, PQ and Gini index.

Four convolutions of 16, 32, 64 and 128 channels (the paper's: 64 to 512), SAP(.5,1), SAP(1,2), lottery ticket and
one-shot pruning in global scope.
"""

from __future__ import annotations

from benchmarks.figures.sheet import Sheet
from benchmarks.reproductions import Outcome, Workplace
from benchmarks.reproductions.lq import _sap as sap

PAPER = f"{sap.PAPER}, CIFAR-10 with the CNN; published: remaining weights read off its figure, within 1 point"
PUBLISHED = {
    **{("global", "SAP(.5,1)", t): left for t, left in ((1, 69.0), (2, 48.6), (3, 35.0), (5, 20.0))},
    **{("global", "SAP(1,2)", t): left for t, left in ((1, 23.3), (2, 8.2), (3, 2.6))},
    **{("global", name, t): 100 * 0.8**t for name in ("lottery ticket", "one-shot") for t in (1, 2, 3, 5)},
}
SETTING = (
    "CIFAR-10 from JPEG-compressed images, {images:,} training and validation images and 2,000 test images, CNN of "
    "a quarter of the paper's width, {steps} prunings and {seeds} seeds; every training is {epochs} epochs of SGD "
    "(rate 0.1, momentum 0.9, Nesterov, weight decay 5e-4, batches of 100, gradient norm clipped to 1, cosine, bf16) "
    "from the initial weights, augmented; the paper trains 200 epochs on all images for 30 prunings and reaches 90.3 % "
    "at t = 0. After so short a training the PQ index is far below the paper's 0.31, so SAP prunes more slowly; the "
    "difference column shows it. The epoch is chosen on validation images (the authors' code: on test images). "
    "'pruned': accuracy after one more global step of 20 % without training. The paper's comparison of scopes is not "
    "repeated: in the authors' plotting code the panels of neuron-wise and of global runs are drawn over each "
    "other's remaining weights."
)


def run(work: Workplace) -> Outcome:
    """Four runs per seed; about half an hour on one core."""
    epochs, steps, seeds, images = (1, 2, 2, 200) if work.quick else (8, 5, 2, 8000)
    words = ["dataset=cifar10", "trainer=cifar10", "model=mlp", f"trainer.train.epochs={epochs}"]
    words += ["trainer.train.learning_rate=0.1", "trainer.train.batch_size=100", "trainer.train.clip_norm=1"]
    words += ["trainer.train.warmup_epochs=0", "trainer.train.channels_last=true"]
    words += [f"trainer.train.precision={'fp32' if work.quick else 'bf16'}"]  # not every processor knows bf16
    words += [f"dataset.limit={images}", f"dataset.limit_test={200 if work.quick else 2000}"]
    model = {"name": "cnn", "_target_": f"{sap.__name__}.PlainCNN", "widths": [16, 32, 64, 128]}
    rows = []
    for seed in range(seeds):
        config = work.config([*words, f"seed={seed}"]) | {"model": model}
        begin = sap.start(config, work)
        for each in sap.GLOBAL_RUNS:
            rows += sap.follow(each, begin, steps)
    published = {} if work.quick else PUBLISHED
    return sap.outcome(rows, published, SETTING.format(steps=steps, seeds=seeds, epochs=epochs, images=images))


def figures(outcome: Outcome) -> dict[str, Sheet]:
    """One board."""
    return {"steps": sap.board(outcome, f"Narrow CNN on CIFAR-10 (JPEG): {sap.headline(outcome)}")}
