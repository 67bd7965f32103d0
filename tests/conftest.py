"""What holds for every test: where it computes, which examples it tries, which gaps are allowed."""

import os
import sys

# one thread per process, set before PyTorch is imported: several workers would fight for the same cores
os.environ.setdefault("OMP_NUM_THREADS", "1")
# the commands that tests start would compile all that they import, for ten seconds each, where byte code is not kept
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

# no test asks the Hugging Face hub
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import property_profiles
import pytest
from hydra.core.global_hydra import GlobalHydra

# Reasons for which a test may be left out in continuous integration; any other is a gap that nobody would see.
# LaTeX, Slurm, a browser and the runtimes are installed there, so that their absence is not on the list.
ALLOWED_SKIPS = (
    "no GPU",
    "root may write anywhere",  # the test needs a user who may not
    "no mount command here",
    "no file system of one's own here",
    "no namespaces of one's own here",
    "needs the images: SECATEURS_DATA",  # the real ones are not in the repository
    "needs MNIST below $SECATEURS_DATA",
    "SECATEURS_DATA is not set",
)
_skipped = []


def pytest_addoption(parser):
    parser.addoption(
        "--long", action="store_true", help="dozens of faults in each test of tests/chaos instead of a few"
    )
    parser.addoption(
        "--device", default="cpu", help="cuda, mps or emulated: only tests that take a device, and there; default cpu"
    )


@pytest.hookimpl(tryfirst=True)  # the plugin of Hypothesis chooses among the profiles
def pytest_configure(config):
    """Before any file of tests is read: what files make on top is made where they compute, too."""
    name = config.getoption("--device")
    # where tests compute elsewhere, what is asked is where, and not of which values
    property_profiles.load(config.getoption("--hypothesis-profile"), most=None if name == "cpu" else 5)
    if name == "cpu":
        os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")  # cells choose a GPU by themselves where there is one
        return
    import torch
    from placing import Placing

    if name == "emulated":
        import emulated

        emulated.install()
    if not name.startswith("cuda") or torch.cuda.is_available():
        Placing(torch.device(name)).__enter__()  # for the whole session


def pytest_runtest_logreport(report):
    if report.skipped and not hasattr(report, "wasxfail"):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
        _skipped.append((report.nodeid, reason.removeprefix("Skipped: ")))


def pytest_sessionfinish(session, exitstatus):
    """In continuous integration a skip that is not on the list is a failure."""
    if hasattr(session.config, "workerinput") or not os.environ.get("CI") or exitstatus:
        return
    silent = [(name, why) for name, why in _skipped if not any(reason in why for reason in ALLOWED_SKIPS)]
    for name, why in silent:
        sys.stderr.write(f"\nleft out, and not for a reason that is allowed (tests/conftest.py): {name}: {why}")
    if silent:
        session.exitstatus = 1


@pytest.fixture(autouse=True)
def _same_start():
    """PyTorch's global stream begins alike in every test, whichever tests the same worker ran before."""
    if "torch" in sys.modules:
        sys.modules["torch"].manual_seed(0)


@pytest.fixture(scope="session")
def device(request):
    """Where the test computes; without the hardware it is left out. ``emulated`` needs none (tests/emulated.py).

    What the test makes is there already (tests/placing.py).
    """
    import torch

    name = request.config.getoption("--device")
    if name.startswith("cuda") and not torch.cuda.is_available():
        pytest.skip("no GPU")
    return torch.device(name)


@pytest.fixture(scope="session")
def accelerator(device):
    """The same for what trains, by the name that the trainer takes; an emulated device is none."""
    return device.type


@pytest.fixture(scope="session")
def long(request):
    """Whether the chaos tests are asked for in full length."""
    return request.config.getoption("--long")


# What mostly waits, for a scheduler or for a service that does not answer, begins first: others then have the cores.
WAITING_FILES = {"test_slurm", "test_track", "test_push"}


def pytest_collection_modifyitems(config, items):
    items.sort(key=lambda item: item.path.stem not in WAITING_FILES)
    if config.getoption("--device") != "cpu":
        emulated = config.getoption("--device") == "emulated"

        def applies(item):
            real = "accelerator" in item.fixturenames or item.get_closest_marker("hardware")
            return "device" in item.fixturenames and not (emulated and real) and not item.get_closest_marker("cpu")

        left = [item for item in items if not applies(item)]
        items[:] = [item for item in items if applies(item)]
        config.hook.pytest_deselected(items=left)


@pytest.fixture(autouse=True)
def _hydra_of_its_own():
    """Hydra keeps one configuration per process; no test inherits that of the one before."""
    GlobalHydra.instance().clear()
    yield
    GlobalHydra.instance().clear()


@pytest.fixture
def fresh_wandb(tmp_path, monkeypatch):
    """W&B as a process meets it that has not used it yet: a home folder of the test's own, no settings around.

    W&B reads the environment once per process, so what one test sets would reach every later one.
    """
    folder = tmp_path / "home"
    folder.mkdir()
    _forget_wandb()
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(folder))
    yield folder
    _forget_wandb()


def _forget_wandb():
    if (wandb := sys.modules.get("wandb")) is not None:
        wandb.teardown()
    os.environ.pop("WANDB_SERVICE", None)  # the address of the service that has just ended


@pytest.fixture(scope="session")
def as_if_downloaded(tmp_path_factory):
    """An environment in which data sets of the hub seem to be in a folder, for plans of cells that read nothing."""
    root = tmp_path_factory.mktemp("downloaded")
    for name in ("tinyshakespeare", "sentence_polarity"):
        (root / name).mkdir()
    for name in ("mnist", "fashion_mnist", "cifar10", "cifar100", "shapes", "imagenet"):
        (root / name).mkdir()
        for split in ("train", "test"):
            (root / name / f"{split}.parquet").touch()
    return {**os.environ, "SECATEURS_DATA": str(root)}
