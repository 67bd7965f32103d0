"""Commands as people, scripts and enemies type them: strategies of Hypothesis, from the groups of conf/ and values.

Right values are those that a key's description in conf/ promises, wrong ones those that it excludes: written down here
once more, and not read from the checks that are tested.
"""

from __future__ import annotations

from pathlib import Path

from hypothesis import strategies as st

from benchmarks.settings.home import CONF

GROUPS = {
    folder.name: sorted(path.stem for path in folder.glob("*.yaml"))
    for folder in sorted(CONF.iterdir())
    if folder.is_dir() and any(folder.glob("*.yaml")) and folder.name != "tuning"  # which is read and not chosen
}
BEYOND = 10**400
LETTERS = st.text("abcdefghijklmnopqrstuvwxyz_", min_size=1, max_size=12)

# ---- values of a kind, and values that are none of it ----
NO_NUMBER = st.sampled_from(["abc", "true", "[1]", "{a:1}", "'1'", "1,2x", "${dataset.name}", "nan", "inf", "ü"])
NO_COUNT = st.one_of(NO_NUMBER, st.sampled_from(["0", "-1", "0.5", "-3", f"-{BEYOND}"]))
NO_FRACTION = st.one_of(NO_NUMBER, st.sampled_from(["0", "-0.5", "1.5", "-inf", "1e400", str(BEYOND)]))
NO_SWITCH = st.sampled_from(["1", "0", "maybe", "yes?", "[true]", "{a:true}", "''", "2.5"])
NO_NAME = st.sampled_from(
    ["../x", "'a/b'", "''", ".hidden", "[a]", "{a:b}", "3", "null", "'a b'", "x" * 100, "'a\x1bb'"]
)
NO_TEXT = st.sampled_from(["3", "true", "[a]", "{a:b}", "''"])
NO_SECTION = st.sampled_from(["null", "3", "[1]"])
COUNT = st.integers(1, 2**31 - 1).map(str)
FRACTION = st.floats(0.001, 1, exclude_max=True).map(repr)
SWITCH = st.sampled_from(["true", "false", "null"])
NAME = st.from_regex(r"[A-Za-z_][A-Za-z_-]{0,15}[a-z]x", fullmatch=True)

# ---- what each key may hold, and what not ----
KEYS: dict[str, tuple[st.SearchStrategy[str], st.SearchStrategy[str]]] = {
    "seed": (
        st.integers(-(2**63), 2**63 - 1).map(str),
        st.one_of(NO_NUMBER, st.sampled_from(["null", "0.5", "9223372036854775808", str(BEYOND)])),
    ),
    "calibration.samples": (st.one_of(COUNT, st.just("null")), NO_COUNT),
    "calibration.batch_size": (COUNT, st.one_of(NO_COUNT, st.just("null"))),
    "dataset.limit": (COUNT, NO_COUNT),
    "dataset.limit_test": (COUNT, NO_COUNT),
    "dataset.validation": (FRACTION, st.one_of(NO_FRACTION, st.sampled_from(["1", "null"]))),
    "dataset.test": (FRACTION, st.one_of(NO_FRACTION, st.sampled_from(["1", "null"]))),
    "dataset.name": (NAME, NO_NAME),
    "dataset.levels": (COUNT, st.one_of(NO_NUMBER, st.sampled_from(["0", "-1"]))),
    "dataset.augment": (
        st.sampled_from(["null", "{crop:1,flip:false}", "{crop:0}"]),
        st.sampled_from(["5", "[1]", "{crop:-1}", "{crop:1000}", "{corp:1}", "{flip:3}", "true"]),
    ),
    "dataset.shape": (
        st.just("[1,8,8]"),
        st.sampled_from(["[]", "8", "[0,8,8]", "[-1,8,8]", "[1,8.5,8]", "null", "[a]"]),
    ),
    "dataset.mean": (st.sampled_from(["0.3", "[0.3]"]), st.sampled_from(["a", "[a]", "[1,2]", "true", "null", "nan"])),
    "dataset.std": (
        st.sampled_from(["0.3", "[0.3]"]),
        st.sampled_from(["0", "[0]", "-1", "a", "[1,2]", "null", "inf"]),
    ),
    "dense.checkpoint": (st.just("null"), st.one_of(NO_TEXT, st.sampled_from(["/nonexistent/x", "FIFO", "FOLDER"]))),
    "model.widths": (
        st.lists(st.integers(1, 64), max_size=3).map(str),
        st.sampled_from(["wide", "3", "[a]", "[0]", "[-2]", "[2.5]", "{a:1}", "[true]"]),
    ),
    "model.bias": (st.sampled_from(["true", "false"]), NO_SWITCH),
    "model.name": (NAME, NO_NAME),
    "method.name": (NAME, NO_NAME),
    "budget.keep": (FRACTION, NO_FRACTION),
    "prune_residual": (SWITCH, NO_SWITCH),
    "save": (SWITCH, NO_SWITCH),
    "controls": (SWITCH, NO_SWITCH),
    "objective": (
        st.sampled_from(["validation_accuracy", "[macs]"]),
        st.sampled_from(["accuracy", "3", "[]", "foo", "{a:1}"]),
    ),
    "measure.memory": (st.sampled_from(["null", "32"]), NO_COUNT),
    "measure.theory": (SWITCH, NO_SWITCH),
    "measure.latency.pairs": (st.integers(1, 1000).map(str), NO_COUNT),
    "measure.latency.batches": (st.just("[1,2]"), st.sampled_from(["3", "[]", "[0]", "[a]", "[true]", "{a:1}"])),
    "measure.latency.runtimes": (st.just("[eager]"), st.sampled_from(["eager", "[]", "[foo]", "[3]"])),
    "measure.latency.precision": (st.sampled_from(["null", "float32"]), st.sampled_from(["fp8", "32", "[float32]"])),
    "track.tags": (st.sampled_from(["[a,b]", "null"]), st.sampled_from(["a", "3", "{a:1}"])),
    **{
        f"trainer.{part}.{name}": values
        for part in ("train", "finetune")
        for name, values in {
            "epochs": (
                st.integers(1, 1000).map(str),
                st.one_of(NO_NUMBER, st.sampled_from(["-1", "null", str(BEYOND)])),
            ),
            "batch_size": (COUNT, NO_COUNT),
            "optimizer": (st.sampled_from(["sgd", "adam", "adamw"]), st.sampled_from(["lion", "3", "null", "[sgd]"])),
            "learning_rate": (FRACTION, st.one_of(NO_NUMBER, st.sampled_from(["0", "-1", "null"]))),
            "weight_decay": (FRACTION, st.one_of(NO_NUMBER, st.sampled_from(["-1", "null"]))),
            "schedule": (st.sampled_from(["constant", "cosine"]), st.sampled_from(["linear", "3", "null"])),
            "label_smoothing": (FRACTION, st.one_of(NO_NUMBER, st.sampled_from(["-1", "1", "null"]))),
            "clip_norm": (st.sampled_from(["null", "1.0"]), st.one_of(NO_NUMBER, st.sampled_from(["0", "-1"]))),
            "augment": (st.sampled_from(["true", "false"]), st.one_of(NO_SWITCH, st.just("null"))),
            "devices": (
                st.just("1"),
                st.sampled_from(["100", "0", "-1", "many", "[1]", "1000000000000", "null", "2.5"]),
            ),
            "precision": (st.just("fp32"), st.sampled_from(["fp8", "16", "null"])),
            "accelerator": (st.sampled_from(["auto", "cpu"]), st.sampled_from(["tpu9", "3", "null"])),
            "strategy": (st.just("auto"), st.sampled_from(["warp", "3", "null"])),
        }.items()
    },
}
SECTIONS = sorted({key.rpartition(".")[0] for key in KEYS} - {""} | {"paths", "selection", "allocation", "schedule"})
NEEDED = [
    "seed",
    "dataset",
    "model",
    "trainer",
    "method",
    "selection",
    "allocation",
    "compensation",
    "schedule",
    "budget",
    "measure",
    "track",
    "paths",
    "calibration",
    "dense",
    "dataset.name",
    "dataset.reader",
    "model._target_",
    "method.name",
    "selection._target_",
    "paths.results",
    "trainer.train",
    "trainer.finetune",
    "trainer.train.epochs",
]

# ---- what anybody may type ----
VALUES = [
    *("0", "1", "-1", "0.5", "2.5", "1e400", "-1e-320", "nan"),
    *("inf", str(BEYOND), "9223372036854775808", "1_000", "0x10"),
    *("true", "false", "maybe", "null", "None", "''", '""', "", "???", "[]"),
    *("[1,2]", "[a,[b]]", "{}", "{a:1}", "{:}", "[[[[]]]]"),
    *("{_target_:os.getcwd}", "[{a:b}]", "'quoted, text'", '"a\\"b"', "'unbalanced", "[1,", "{a:", "a b", " ", "  x  "),
    *("${seed}", "${oc.env:NOPE}", "${oc.env:HOME}", "${nope}"),
    *("${..seed}", "${hydra:runtime.cwd}", "${oc.create:{a:1}}"),
    *("${seed", "${${seed}}", "$x", "${paths}", "${dataset}", "${nope:1}", "${oc.decode:x}", "${budget.keep}"),
    *("range(0,3)", "range(0,1,0)", "range(3,0)", "range(0,30000000)", "range(0,1e9,0.5)", "choice(1,2)", "choice()"),
    *("glob(*)", "glob([a*,b*],exclude=x)", "interval(0,1)", "sort(3,1)"),
    *("sort(b,a,reverse=true)", "shuffle(range(0,5))"),
    *("tag(a,1,2)", "int(2.5)", "str(1)", "float(x)", "bool(1)", "extend_list(1)", "a,b"),
    *("1,2,", ",", "range(a,b)", "nope(1)"),
    *("/nonexistent/x", ".", "..", "~", "FIFO", "FOLDER", "FILE", "JUNK", "FIFO/x", "FILE/x"),
    *("ü", "日本", "\x1b[31m", "\n", "\t", "\u202e", "\udcff", "a=b", "a:b", "*", "@"),
    *("%", "--", "-m", "a" * 5000, "\\", "#"),
]  # fmt: skip
VALUE = st.one_of(
    st.sampled_from(VALUES),
    st.text(st.characters(exclude_characters="\x00", exclude_categories=["Cs"]), max_size=12),
    st.integers().map(str),
    st.floats().map(repr),
)
ODD_KEYS = [
    "hydra.sweeper.max_batch_size",
    "hydra/launcher",
    "hydra/sweeper",
    "hydra.job.name",
    "hydra.searchpath",
    "hydra.mode",
    "hydra.run.dir",
    "dataset@trainer",
    "model@:x",
    "from_record",
    "allow_targets",
    "_sweep",
    "_wait",
    "_replace",
    "dry_run",
    "dense",
    "paths.cache",
    "selection.theta",
    "schedule.steps",
    "allocation.widths",
    "allocation.record",
    "model._target_",
    "dataset.reader",
    "dataset.source",
    "dataset.hub",
]
KEY = st.one_of(
    st.sampled_from(sorted(KEYS)),
    st.sampled_from(sorted(GROUPS)),
    st.sampled_from(NEEDED),
    st.sampled_from(SECTIONS).flatmap(lambda section: LETTERS.map(lambda name: f"{section}.{name}")),
    st.sampled_from(ODD_KEYS),
    st.text(st.characters(exclude_characters="\x00", exclude_categories=["Cs"]), max_size=6),
)
WORD = st.builds("{}{}={}".format, st.sampled_from(["", "", "", "", "+", "++", "~"]), KEY, VALUE)
DELETION = st.builds("~{}".format, KEY)
CHOICE = st.sampled_from(sorted(GROUPS)).flatmap(
    lambda group: st.sampled_from(GROUPS[group]).map(lambda choice: f"{'+' * (group == 'experiment')}{group}={choice}")
)
FLAG = st.sampled_from(
    [
        "-m",
        "--multirun",
        "--cfg",
        "--cfg=job",
        "-c",
        "--resolve",
        "--info",
        "--info=defaults",
        "--help",
        "--hydra-help",
        "--version",
        "-p",
        "--package=dataset",
        "-cn",
        "--config-name=nope",
        "-cd",
        "--config-dir=FOLDER",
        "-cp",
        "--run",
        "--nope",
        "-x",
        "--",
        "-",
        "---",
        "--dry-run=3",
        "-mm",
        "--config-path=FOLDER",
        "-sc",
        "--shell-completion",
    ]
)
ANYTHING = st.builds(
    lambda words, sweep: [*["-m"] * sweep, *words],
    st.lists(st.one_of(WORD, WORD, WORD, CHOICE, CHOICE, DELETION, FLAG), min_size=1, max_size=4),
    st.booleans(),
)

# ---- commands whose answer is known ----
METHOD = st.sampled_from([name for name in GROUPS["method"] if name != "spectral_rnn"]).map("method={}".format)
RIGHT = st.builds(
    lambda method, given: [method, *(f"{key}={value}" for key, value in given.items())],
    METHOD,
    st.lists(
        st.sampled_from(sorted(set(KEYS) - {"method.name", "dataset.limit_test", "track.tags"})),
        max_size=3,
        unique=True,
    ).flatmap(lambda keys: st.fixed_dictionaries({key: KEYS[key][0] for key in keys})),
)
WRONG_VALUE = st.sampled_from(sorted(KEYS)).flatmap(lambda key: KEYS[key][1].map(lambda value: f"{key}={value}"))
FORCED = WRONG_VALUE.map("++{}".format)  # which is checked like the key itself
WRONG_CHOICE = st.builds(
    "{}={}".format, st.sampled_from(sorted(set(GROUPS) - {"experiment"})), LETTERS.map("{}_no".format)
)
WRONG_KEY = st.builds("{}.{}=1".format, st.sampled_from(SECTIONS), LETTERS.map("{}_no".format))
ADDED_KEY = WRONG_KEY.map("+{}".format)
MISSING = st.sampled_from(NEEDED).map("~{}".format)
NOTHING = st.sampled_from([key for key in NEEDED if key != "track"]).map("{}=null".format)
UNREADABLE = st.sampled_from(
    ["seed=[1", "seed={", "seed='", "=", "=1", "seed", "a b=1", "seed=1,,2", "~", "+", "++=1", "a==", "seed=)"]
)
UNKNOWN_FLAG = st.sampled_from(["--nope", "-x", "--cfg=nope", "--info=nope", "--multirn", "--dryrun"])
WRONG = st.one_of(
    WRONG_VALUE, WRONG_VALUE, FORCED, WRONG_CHOICE, WRONG_KEY, ADDED_KEY, MISSING, NOTHING, UNREADABLE, UNKNOWN_FLAG
)
# ---- parts that are right by themselves and cannot work together ----
OF_NODES = ["magnitude", "random", "spectral", "dpp", "thinet", "fpgm", "hrank", "taylor", "onorm"]
OF_EDGES = ["magnitude_edge", "obd", "obs", "exact_obs", "sparsegpt", "lq", "dpp_edge", "wanda", "lamp"]
SETS = ["dpp", "dpp_edge", "cbs", "exact_obs", "sparsegpt", "lq_greedy"]  # which have no score per unit
EXPLAINING = ["spectral", "spectral_domain", "spectral_rnn"]


def _together(methods: list[str], words: list[str]) -> st.SearchStrategy[list[str]]:
    return st.builds(lambda method, word: [f"method={method}", word], st.sampled_from(methods), st.sampled_from(words))


MISFIT = st.one_of(
    _together(OF_NODES, ["allocation=sap", "allocation=erdos_renyi", "allocation=uniform_per_neuron"]),
    _together(OF_NODES, ["compensation=obs", "compensation=sparsegpt", "compensation=refit_with_bias"]),
    _together(OF_EDGES, ["compensation=kronecker", "allocation.round_to=8", "budget.latency=2"]),
    _together(SETS, [f"allocation={name}" for name in ("global", "global_floor", "global_per_cost", "floor_per_cost")]),
    _together(sorted({*OF_NODES, *OF_EDGES} - {*EXPLAINING}), ["allocation=information"]),
    st.builds(
        lambda pattern, keep: ["method=exact_obs", f"selection.pattern='{pattern}'", f"budget.keep={keep}"],
        st.sampled_from(["1:4", "2:8"]),
        st.sampled_from(["0.1", "0.5", "0.75", "0.9"]),
    ),
)


def placed(words: list[str], folder: Path) -> list[str]:
    """``words`` with the places that a strategy only names: a pipe, a folder, an empty file and one of garbage."""
    for name in ("FIFO", "FOLDER", "FILE", "JUNK"):
        words = [word.replace(name, str(folder / name.lower())) for word in words]
    return words


# ---- python -m benchmarks.X ----
PLACE = st.sampled_from(["records", "/nonexistent/x", "FIFO", "FOLDER", "FILE", "JUNK", "FILE/x", "ü", "--", "''", "."])
QUERY = st.one_of(
    st.sampled_from(
        [
            "seed < 1",
            "method == 'spectral'",
            "nope == 1",
            "seed ==",
            "(",
            "import os",
            "seed",
            "1",
            "'a'",
            "@x",
            "seed + 1",
            "",
            "x" * 999,
        ]
    ),
    VALUE,
)
INTEGER = st.one_of(st.integers(-3, 3).map(str), VALUE)
OPTIONS: dict[str, dict[str, st.SearchStrategy[str] | None]] = {
    "leaderboard": {
        "--results": PLACE,
        "--out": st.sampled_from(["boards", "FIFO", "FILE", "FILE/x"]),
        "--where": QUERY,
        "--group-by": VALUE,
        "--metric": VALUE,
        "--baseline": VALUE,
        "--format": VALUE,
        "--interval": None,
        "--committed": None,
        "--check": None,
        "--theory": None,
    },
    "status": {
        "--results": PLACE,
        "--failed": None,
        "--retry": None,
        "--forget": st.sampled_from(["failed", "all", ""]),
        "--yes": None,
    },
    "report": {
        "--results": PLACE,
        "--where": QUERY,
        "--baseline": VALUE,
        "--committed": None,
        "--out": st.sampled_from(["FILE", "FIFO"]),
    },
    "reproduce": {"--results": PLACE, "--cache": PLACE, "--quick": None, "--page": None},
    "survey": {"--results": PLACE, "--where": QUERY},
    "methods": {"--check": None},  # beside a word at least, since without any all methods are tried out
    "networks": {"--check": None},  # and a word at least, likewise
    "grids": {"--results": PLACE, "--cache": PLACE},  # and a word at least, since planning all of them takes a while
    "make_images": {"--images": st.sampled_from(["2", "0", "-1", "abc", "9" * 30]), "--test": VALUE, "--seed": VALUE},
    "cost": {},
    "site": {"--results": PLACE, "--out": st.sampled_from(["FILE", "FIFO"]), "--mkdocs": st.just("nope")},
    "groups": {"--figure": st.sampled_from(["x.png", "x.jpg", "FIFO", "FILE/x.png", "", "ü.png"])},
    "spectrum": {"--widths": INTEGER, "--samples": INTEGER, "--out": st.sampled_from(["spectra", "FILE", "FIFO/x"])},
    "sensitivity": {"--sizes": INTEGER, "--out": st.sampled_from(["curves", "FILE", "FIFO/x"])},
    "speed": {"--results": PLACE, "--quick": None, "--save": None},
    "submit": {"--results": PLACE, "--where": QUERY, "--refused": None},
    "track push": {"--results": PLACE, "--dir": PLACE, "--project": VALUE, "--entity": VALUE},
    "track sweep": {},
    "export": {},
    "conformance": {},
}
EXPORTED = st.builds(
    "{}={}".format,
    st.sampled_from(["key", "format", "output", "paths.results", "paths.cache", "test", "batch", "nope"]),
    st.one_of(
        st.sampled_from(
            ["onnx", "safetensors", "KEY", "true", "", "0", "-1", "9" * 30, "²", "records", "FIFO", "../x"]
        ),
        VALUE,
    ),
)
NAMING = ("speed", "methods", "networks", "grids", "cost", "site")  # without a name they do all that there is
LISTED = {  # what stands beside the options; names of work that takes minutes are none of them
    "status": VALUE,
    "reproduce": st.one_of(VALUE, st.sampled_from(["--page", "--nope"])),
    "survey": PLACE,
    "methods": st.one_of(VALUE, st.sampled_from(["fpgm", "nope"])),
    "networks": st.one_of(VALUE, st.sampled_from(["nope", "BERTT", "--nope"])),
    "grids": st.one_of(VALUE, st.sampled_from(["digits_latency", "nope", "../x"])),
    "make_images": st.sampled_from(["FOLDER", "FILE", "FIFO", "FILE/x", "."]),  # where none can be made
    "cost": st.one_of(VALUE, st.just("nope")),
    "site": st.just("nope"),  # so that none is built
    "groups": st.one_of(WORD, CHOICE, DELETION),
    "spectrum": st.one_of(WORD, WRONG_CHOICE, WRONG_KEY, WRONG_VALUE),
    "sensitivity": st.one_of(WORD, WRONG_CHOICE, WRONG_KEY, WRONG_VALUE),
    "speed": st.one_of(VALUE, st.just("nope")),
    "track push": st.just("nope"),
    "track sweep": st.one_of(st.sampled_from(GROUPS["experiment"]), WORD, VALUE),
    "export": st.one_of(EXPORTED, VALUE),
    "conformance": st.one_of(
        st.builds("method={}".format, VALUE), WRONG_KEY, st.sampled_from(["stochastic=3", "stochastic", "x"])
    ),
}


@st.composite
def commands(draw: st.DrawFn, name: str) -> list[str]:
    """Words for the command ``name``, right and wrong."""
    flags = draw(st.lists(st.sampled_from(sorted(OPTIONS[name])), max_size=3, unique=True)) if OPTIONS[name] else []
    words = name.split()[1:]
    for flag in flags:
        value = OPTIONS[name][flag]
        words += [flag] if value is None else [f"{flag}={draw(value)}"]
    words += draw(st.lists(LISTED.get(name, st.just("nope")), min_size=int(name in NAMING), max_size=2))
    return words + draw(st.sampled_from([[], [], [], ["--nope"], ["--help"], ["--results"]]))
