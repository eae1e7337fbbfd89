"""Size of the training images: one number of px for a square, or height and width."""

from __future__ import annotations

import math
from argparse import ArgumentTypeError
from collections.abc import Sequence

from ..errors import InputError

Size = tuple[int, int]
"""Height and width in px."""
SizeOption = int | list[int]
"""A size as options and files have it: the side of a square, or [height, width]."""


def as_size(option: int | Sequence[int]) -> Size:
    """Height and width of an option that is right."""
    return (option, option) if isinstance(option, int) else (option[0], option[-1])


def as_option(size: Size) -> SizeOption:
    """The shortest option of a size: one number for a square."""
    return size[0] if size[0] == size[1] else list(size)


def checked_size(option: SizeOption, stride: int, name: str) -> Size:
    """Height and width of an option that a user has given.

    Args:
        option: The side, or both sides, in px.
        stride: Largest stride of the network, in px.
        name: Name of the option, for the message.

    Raises:
        InputError: It is no size, or a side is no multiple of the stride.
    """
    sides = [option] if isinstance(option, int) else list(option)
    if len(sides) not in (1, 2):
        raise InputError(f"{name} {option} is no size; give one number of px, or [height, width]")
    near = [max(stride, round(side / stride) * stride) for side in sides]
    if near != sides:
        use = near[0] if len(near) == 1 else near
        raise InputError(f"{name} {option} is not a multiple of {stride}; use {use}")
    return sides[0], sides[-1]


def read_size(text: object) -> SizeOption:
    """Read an option of the command line: 640, 384,640 or [384, 640]; a type for argparse.

    Raises:
        ArgumentTypeError: It is none of them.
    """
    try:
        sides = [int(side) for side in str(text).strip("[] ").split(",")]  # jsonargparse reads values again
    except ValueError:
        raise ArgumentTypeError(f"'{text}' is no size; give 640 or, of height and width, 384,640") from None
    return sides[0] if len(sides) == 1 else sides


def describe(size: Size) -> str:
    """A size for people, as they name sizes of pictures: 640 px, or 640 x 384 px of width and height."""
    height, width = size
    return f"{width} px" if height == width else f"{width} x {height} px"


def mean_side(size: Size) -> float:
    """Side in px of the square with the area of a size."""
    height, width = size
    return height if height == width else math.sqrt(height * width)
