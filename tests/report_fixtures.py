"""Records with everything that the pages of the report can show."""

from sample_records import made

HOSTILE = '</script><script>window.hacked = 1</script><img src=x onerror="window.hacked = 1">'
PATIENCE = 180_000  # milliseconds that a busy machine gets for one step of the browser
LEAST_SQUARES = {"_target_": "methods.compensation.LeastSquares"}
NONE = {"_target_": "methods.compensation.Compensation"}


def records():
    """Four methods, two repairs, three budgets and three seeds, with everything a page can show."""
    for number, method in enumerate(("spectral", "random", "magnitude", "obd")):
        for repair, compensation in enumerate((LEAST_SQUARES, NONE)):
            for value in (0.5, 0.2, 0.1):
                for seed in range(3):
                    yield cell(method, number, compensation, repair, value, seed)
    yield made(5, "failed", method="random", reason=f"it broke {HOSTILE}", settings={"method": "f"})


def cell(method, number, compensation, repair, value, seed):
    tuned = 0.99 - 0.02 * number - 0.03 * repair - 0.02 / value + 0.003 * ((seed * (number + 2) + repair) % 3)
    epochs = [{"epoch": n, "validation_accuracy": tuned * n / 5, "validation_loss": 1 / n} for n in range(1, 6)]
    return made(
        seed,
        method=method,
        settings={"method": {"name": method}, "compensation": compensation, "budget": {"keep": value}},
        budget={"requested": {"keep": value}, "achieved": {"compression": 1 / value, "speedup": 0.9 / value}},
        metrics={
            "dense": {"accuracy": 0.99, "loss": 0.1, "parameters": 1000, "macs": 900},
            "pruned": {"accuracy": tuned - 0.1, "loss": 0.2 + number, "parameters": 100, "macs": 90},
            "tuned": {"accuracy": tuned, "loss": 0.15, "parameters": 100, "macs": 90},
        },
        layers=[{"name": f"fc{n}", "units": 10, "kept": int(10 * value), "loss": 0.5 / value} for n in (1, 2)],
        latency=[{"runtime": "eager", "batch": 1, "ratio": 1 + 0.1 / value}],
        history={"train": epochs, "finetune": epochs},
    )
