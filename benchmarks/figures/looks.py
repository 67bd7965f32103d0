"""One colour, one symbol and one dash pattern for every method, the same on every chart, page, diagram and figure.

Every colour has a contrast of at least 3:1 to white and to the dark paper of the report. Methods are told apart without
colour, too: no two of the suite's own share both symbol and dash. A method that is not in the list below gets a look
from its name, which may be another method's.
"""

import hashlib
from dataclasses import dataclass, replace

COLOURS = ("#0d7fc4", "#d55e00", "#00906a", "#b34fb5", "#a87400", "#d84a4a", "#5b62d6", "#7d7d7d")
SHAPES = ("circle", "square", "triangle-up", "diamond", "triangle-down", "cross", "triangle-right", "triangle-left")
DASHES = ((1, 0), (6, 3), (2, 2), (8, 2, 2, 2), (10, 4), (4, 1, 1, 1), (12, 2, 4, 2), (3, 5))
MARKERS = dict(zip(SHAPES, ("o", "s", "^", "D", "v", "P", ">", "<"), strict=True))  # Matplotlib's names of the shapes
INK, PAPER, DARK_PAPER = "#222222", "#ffffff", "#1d2125"

# Eight to a line: neighbours differ in colour and symbol, lines in dash. The last of a line is grey.
ORDER = (
    *("spectral", "magnitude", "dpp", "thinet", "osscar", "taylor", "hap", "random"),
    *("exact_obs", "magnitude_edge", "lamp", "obd", "wanda", "snip", "obs", "random_edge"),
    *("onorm", "fpgm", "second_moment", "variance", "chip", "hrank", "obd_filter", "torch_pruning"),
    *(
        "kron_obd",
        "kron_obs",
        "eigendamage",
        "obs_filter",
        "flat_minimum",
        "spectral_rnn",
        "spectral_domain",
        "scratch",
    ),
    *("wood_taylor", "cbs", "sparsegpt", "dpp_edge", "lq", "sap", "one_shot", "unpruned_longer"),
    *("lq_greedy", "lq_lasso", "lottery_ticket", "gradual_magnitude", "grasp", "synflow", "sipp", "dense"),
    *("group_norm", "slimming", "greg", "pfp", "shapley", "banzhaf", "depth", "low_rank"),
    *("movement", "set", "rigl", "mfac", "chita", "alps", "surp", "exact"),
)
# Outlines of the shapes in a square of 16 by 16, for pages that draw their own symbols.
PATHS = {
    "circle": "M8 3a5 5 0 1 0 .01 0z",
    "square": "M3.5 3.5h9v9h-9z",
    "triangle-up": "M8 2.5l6 10.5H2z",
    "diamond": "M8 2l5 6-5 6-5-6z",
    "triangle-down": "M8 13.5L2 3h12z",
    "cross": "M6 2h4v4h4v4h-4v4H6v-4H2V6h4z",
    "triangle-right": "M13.5 8L3 14V2z",
    "triangle-left": "M2.5 8L13 2v12z",
}


@dataclass(frozen=True)
class Look:
    """How a method is drawn: ``colour`` as #rrggbb, ``shape`` in Vega's words, ``dash`` as lengths of ink and gap."""

    colour: str
    shape: str
    dash: tuple[int, ...]

    @property
    def marker(self) -> str:
        """The shape in Matplotlib's words."""
        return MARKERS[self.shape]


def look(name: str, variant: int = 0) -> Look:
    """The look of a method, or of a setting of one, such as ``spectral (no compensation)``.

    Args:
        name: the name of the method or the setting; a setting has the colour and the symbol of its method.
        variant: which of several settings of one method; each has another dash.
    """
    method = method_of(name)
    number = ORDER.index(method) if method in ORDER else _number(method)
    line, place = divmod(number, len(COLOURS))
    shape = SHAPES[(place + line) % len(SHAPES)]
    return Look(COLOURS[place], shape, DASHES[(line + variant) % len(DASHES)])


def together(*names: str) -> dict[str, Look]:
    """The looks of methods that are drawn together: of two that share a colour the later one gets a free one.

    Symbols and dashes stay, and colours do as long as there are no more than eight methods.
    """
    found: dict[str, Look] = {}
    for name in names:
        own, used = look(name), {each.colour for each in found.values()}
        free = [colour for colour in COLOURS if colour not in used]
        found[name] = own if own.colour not in used or not free else replace(own, colour=free[0])
    return found


def method_of(name: str) -> str:
    """The method in the name of a setting: what stands before the first bracket; charts say ``dense network``."""
    return name.partition(" (")[0].partition(" [")[0].removesuffix(" network")


def _number(name: str) -> int:
    """A number from the name alone, whatever the process."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:4], "big") % (len(COLOURS) * len(DASHES))


def contrast(first: str, second: str) -> float:
    """The contrast of two colours, #rrggbb, from 1 to 21 (WCAG 2.2, relative luminance)."""
    low, high = sorted((_luminance(first), _luminance(second)))
    return (high + 0.05) / (low + 0.05)


def _luminance(colour: str) -> float:
    channels = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return sum(weight * value for weight, value in zip((0.2126, 0.7152, 0.0722), linear, strict=True))
