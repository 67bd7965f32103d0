"""What the suite promises about its own speed: one module per claim, found by ``python -m benchmarks.speed``.

A module's docstring says what is measured; its ``measure(quick)`` yields one finding per row of the table. ``quick``
asks for sizes that take seconds; promises are then left out, since they are made for the full sizes.
"""
