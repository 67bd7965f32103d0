"""Check what is added to the diagonal of a curvature matrix."""

from methods.errors import BadInput


def checked_damping(damping: float, part: str, positive: bool = False) -> float:
    """Return ``damping`` if the damped matrix can be inverted.

    Args:
        damping: added to the diagonal.
        part: whose option it is, for the message.
        positive: whether there is no inverse with zero damping either, as with fewer gradients than weights.

    Raises:
        BadInput: the damping is negative, infinite or not a number, or zero where it must be positive.
    """
    if positive and not 0 < damping < float("inf"):
        raise BadInput(
            f"{part}.damping={damping:g} is not positive, F has no inverse; the papers use {part}.damping=1e-5"
        )
    if not 0 <= damping < float("inf"):
        raise BadInput(f"{part}.damping={damping:g} is not a number from 0; type for instance {part}.damping=1e-3")
    return damping
