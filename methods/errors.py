"""Exceptions for the ways in which a cell can fail, with messages for the user, and any error in one line."""


class BadInput(ValueError):
    """A mistake in what the user asked for.

    The message has one or two lines: what was wrong, what was expected, what to type instead. The command line prints
    it without a traceback and exits with a code other than 0.
    """


class Collapsed(RuntimeError):
    """The network no longer computes anything useful (NaN, an emptied layer): a result, recorded with its reason."""


class Skipped(RuntimeError):
    """This method does not apply to this network or data; the reason names, for instance, the layer."""


class Unreachable(Skipped, BadInput):
    """No network that the method may choose meets the budget.

    If the user asks for one network, this is a mistake in the request; in a comparison it is the method's result at
    this budget.
    """


def first_line(error: BaseException | str, limit: int = 300) -> str:
    """Return the first line of an error's message that is not empty, or the error's type if there is none."""
    lines = (line.strip() for line in str(error).splitlines())
    line = next(filter(None, lines), type(error).__name__ if isinstance(error, BaseException) else "")
    return one_line("".join(letter if letter.isprintable() else "?" for letter in line), limit)


def one_line(text: str, limit: int = 100) -> str:
    """The first line of ``text``, shortened to ``limit`` characters, between two words if possible."""
    line = next(iter(text.strip().splitlines()), "")
    if len(line) <= limit:
        return line
    whole, gap, _ = line[: limit - 1].rpartition(" ")
    return (f"{whole} " if gap and len(whole) > limit // 2 else line[: limit - 1]) + "…"
