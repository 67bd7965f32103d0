"""Which examples the property tests try: the same each time, or, by hand (``make explore``), others each time."""

from typing import Any

import hypothesis
from hypothesis import HealthCheck, settings
from hypothesis.internal.conjecture.providers import AVAILABLE_PROVIDERS, HypothesisProvider
from hypothesis.internal.constants_ast import Constants


class SameExamples(HypothesisProvider):
    """Draws no constants found in the code of our modules.

    Which modules are imported when a test begins depends on the tests that the same worker ran before, so that with
    them even ``derandomize=True`` gives other examples from one run to the next.
    """

    _local_constants = Constants()


def load(profile: str | None, most: int | None = None) -> None:
    """Before any file of tests is read, since ``@settings`` of a test adds to the profile loaded then.

    ``most`` bounds the examples of each test, also of those that ask for more.
    """
    slow = list({*settings.default.suppress_health_check, HealthCheck.too_slow})
    common = {"deadline": None, "suppress_health_check": slow}  # timing never decides a test
    if most is not None:
        common["max_examples"] = most

        class Bounded(settings):
            def __init__(self, parent: settings | None = None, **asked: Any) -> None:
                super().__init__(parent, **{**asked, "max_examples": most})

        hypothesis.settings = Bounded
    settings.register_profile("same", derandomize=True, database=None, **common)
    settings.register_profile("explore", derandomize=False, print_blob=True, **common)
    name = profile or "same"
    settings.load_profile(name)
    AVAILABLE_PROVIDERS["hypothesis"] = SameExamples if name == "same" else HypothesisProvider
