"""GPUs: memory, arithmetic and bandwidth, from NVIDIA's data sheets and architecture white papers."""

from __future__ import annotations

import difflib
import re
from typing import NamedTuple

from ...errors import InputError


class Card(NamedTuple):
    """A GPU."""

    name: str
    memory_gb: float  # 10^9 bytes
    bandwidth: float  # of the memory, GB/s
    half_tflops: float  # dense, float16 with accumulation in float32
    single_tflops: float  # float32 as torch computes it here: TF32 where the card has it
    has_bf16: bool


def _card(name: str, gib: float, bandwidth: float, half: float, single: float, bf16: bool = True) -> Card:
    return Card(name, gib * 2**30 / 1e9, bandwidth, half, single, bf16)


CARDS = (
    _card("GTX 1080 Ti", 11, 484, 11.3, 11.3, bf16=False),  # no tensor cores; half runs as float32
    _card("P100", 16, 732, 21.2, 10.6, bf16=False),
    _card("V100-16GB", 16, 900, 125, 15.7, bf16=False),
    _card("V100-32GB", 32, 900, 125, 15.7, bf16=False),
    _card("T4", 15, 320, 65, 8.1, bf16=False),  # 16 GB less what error correction takes
    _card("GTX 1660 Ti", 6, 288, 11, 5.4, bf16=False),
    _card("RTX 2060", 6, 336, 25.8, 6.5, bf16=False),
    _card("RTX 2070", 8, 448, 29.9, 7.5, bf16=False),
    _card("RTX 2080 Ti", 11, 616, 53.8, 13.4, bf16=False),
    _card("A100-40GB", 40, 1555, 312, 156),
    _card("A100-80GB", 80, 2039, 312, 156),
    _card("A30", 24, 933, 165, 82),
    _card("A10", 24, 600, 125, 62.5),
    _card("A10G", 24, 600, 70, 35),
    _card("A40", 48, 696, 149.7, 74.8),
    _card("RTX A4000", 16, 448, 76.7, 38.3),
    _card("RTX A5000", 24, 768, 111.1, 55.6),
    _card("RTX A6000", 48, 768, 154.8, 77.4),
    _card("RTX 3060", 12, 360, 25.6, 12.8),
    _card("RTX 3060 Ti", 8, 448, 32.4, 16.2),
    _card("RTX 3070", 8, 448, 40.6, 20.3),
    _card("RTX 3080", 10, 760, 59.5, 29.8),
    _card("RTX 3090", 24, 936, 71.2, 35.6),
    _card("RTX 4060", 8, 272, 30.2, 15.1),
    _card("RTX 4060 Ti", 8, 288, 44.1, 22.1),
    _card("RTX 4070", 12, 504, 58.3, 29.1),
    _card("RTX 4070 Ti", 12, 504, 80.2, 40.1),
    _card("RTX 4080", 16, 717, 97.5, 48.7),
    _card("RTX 4090", 24, 1008, 165.2, 82.6),
    _card("RTX 5070", 12, 672, 61.7, 30.9),
    _card("RTX 5080", 16, 960, 112.6, 56.3),
    _card("RTX 5090", 32, 1792, 209.5, 104.8),
    _card("RTX 6000 Ada", 48, 960, 364.2, 182.1),
    _card("L4", 24, 300, 121, 60),
    _card("L40S", 48, 864, 362, 183),
    _card("H100-PCIe", 80, 2039, 756, 378),
    _card("H100-SXM", 80, 3350, 989, 494),
    _card("H200", 141 * 1e9 / 2**30, 4800, 989, 494),
    _card("B200", 180 * 1e9 / 2**30, 8000, 2250, 1100),
)
"""Memory in GiB unless a card is sold in 10^9 bytes; figures without sparsity, at boost clock."""


def find_card(name: str) -> Card:
    """The card of a name, such as ``RTX 3090``, ``rtx3090`` or ``NVIDIA A100-40GB``.

    Raises:
        InputError: there is none in the table.
    """
    wanted = _plain(name)
    by_name = {_plain(card.name): card for card in CARDS}
    if wanted in by_name:
        return by_name[wanted]
    begins = [card.name for plain, card in by_name.items() if wanted and plain.startswith(wanted)]
    near = begins or [by_name[key].name for key in difflib.get_close_matches(wanted, by_name, n=3)]
    known = ", ".join(near or [card.name for card in CARDS])
    raise InputError(f"--gpu {name}: is not in the table of cards; use {known}")


def _plain(name: str) -> str:
    words = re.sub(r"nvidia|geforce|tesla|graphics", "", name.lower())
    return re.sub(r"[^a-z0-9]", "", words)
