"""The three ways a cell can end other than well, as exceptions whose message is meant for the user."""


class BadInput(ValueError):
    """A mistake in what the user asked for.

    The message has one or two lines: what was wrong, what was expected, what to type instead. The command line prints
    it without a traceback and exits with a code other than 0.
    """


class Collapsed(RuntimeError):
    """The network no longer computes anything useful (NaN, an emptied layer): a result, recorded with its reason."""


class Skipped(RuntimeError):
    """This method does not apply to this network or data; the reason names, for instance, the layer."""
