"""Checks of numbers that users give, whose error messages have the value and what is allowed."""

from numbers import Real
from typing import Any

from fastlt.core.errors import UserError


def whole(name: str, value: Any, least: int, most: int) -> None:
    """Raises UserError unless a value is an int from `least` to `most`. name: of the key or option.

    >>> whole("num_ops", 2, 1, 16)
    """
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        raise UserError(f"{name}={value}: it must be a whole number from {least} to {most}")


def within(name: str, value: Any, least: float, most: float, hint: str = "") -> None:
    """Raises UserError unless a value is a real number from `least` to `most`; NaN is none.

    name: of the key or option. hint: is added to the message, such as "0 is off".

    >>> within("p", 0.5, 0, 1)
    """
    if not _real(value) or not least <= value <= most:
        told = f", {hint}" if hint else ""
        raise UserError(f"{name}={value}: it must be a number from {least:g} to {most:g}{told}")


def number(name: str, value: Any) -> None:
    """Raises UserError unless a value is a real number, or NaN. name: of the key or option.

    >>> number("gamma", 2)
    """
    if not _real(value):
        raise UserError(f"{name}={value}: it must be a number")


def range_within(name: str, pair: Any, least: float, most: float) -> None:
    """Raises UserError unless `pair` is [low, high], two real numbers from `least` to `most`. name: as in `within`.

    >>> range_within("sigma", (0.1, 2.0), 0.001, 1000)
    """
    two = isinstance(pair, list | tuple) and len(pair) == 2 and all(_real(one) for one in pair)
    if not two or not least <= pair[0] <= pair[1] <= most:
        told = list(pair) if isinstance(pair, tuple) else pair
        raise UserError(f"{name}={told}: it must be [low, high], both from {least:g} to {most:g}")


def wrong_channels(mean: Any, std: Any) -> str:
    """Returns what is wrong with a mean and standard deviation of RGB in 0..1, as `mean=[0.5], not ...`, or else "".

    Numbers of levels 0..255 are refused: all images would be nearly one number.

    >>> wrong_channels([0.5, 0.5, 0.5], [0.25, 0.25, 0.25])
    ''
    """
    for name, given, positive in (("mean", mean, False), ("std", std, True)):
        numbers = given.tolist() if hasattr(given, "tolist") else given  # of NumPy or torch
        three = isinstance(numbers, list | tuple) and len(numbers) == 3 and all(map(_real, numbers))
        if not three or not all(0 <= one <= 1 and (one > 0 or not positive) for one in numbers):
            told = str(list(numbers) if isinstance(numbers, tuple) else numbers)[:60]
            return f"{name}={told}, not three numbers {'above 0, at most 1' if positive else 'from 0 to 1'}"
    return ""


def _real(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)
