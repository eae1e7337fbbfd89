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
    _card("GTX 1070", 8, 256, 6.5, 6.5, bf16=False),
    _card("GTX 1080", 8, 320, 8.9, 8.9, bf16=False),  # no tensor cores; half runs as float32
    _card("GTX 1080 Ti", 11, 484, 11.3, 11.3, bf16=False),
    _card("P100", 16, 732, 21.2, 10.6, bf16=False),
    _card("V100-16GB", 16, 900, 125, 15.7, bf16=False),
    _card("V100-32GB", 32, 900, 125, 15.7, bf16=False),
    _card("T4", 15, 320, 65, 8.1, bf16=False),  # 16 GB less what error correction takes
    _card("GTX 1650", 4, 128, 6, 3, bf16=False),
    _card("GTX 1660", 6, 192, 10, 5, bf16=False),
    _card("GTX 1660 Ti", 6, 288, 11, 5.4, bf16=False),
    _card("RTX 2060", 6, 336, 25.8, 6.5, bf16=False),
    _card("RTX 2070", 8, 448, 29.9, 7.5, bf16=False),
    _card("RTX 2080", 8, 448, 40.3, 10.1, bf16=False),
    _card("RTX 2080 Ti", 11, 616, 53.8, 13.4, bf16=False),
    _card("TITAN RTX", 24, 672, 130.5, 16.3, bf16=False),
    _card("Quadro RTX 6000", 24, 672, 130.5, 16.3, bf16=False),
    _card("Quadro RTX 8000", 48, 672, 130.5, 16.3, bf16=False),
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
    _card("RTX 3070 Ti", 8, 608, 43.5, 21.7),
    _card("RTX 3080", 10, 760, 59.5, 29.8),
    _card("RTX 3080-12GB", 12, 912, 61.3, 30.6),
    _card("RTX 3080 Ti", 12, 912, 68.2, 34.1),
    _card("RTX 3090", 24, 936, 71.2, 35.6),
    _card("RTX 3090 Ti", 24, 1008, 80, 40),
    _card("RTX 4060", 8, 272, 30.2, 15.1),
    _card("RTX 4060 Ti", 8, 288, 44.1, 22.1),
    _card("RTX 4060 Ti-16GB", 16, 288, 44.1, 22.1),
    _card("RTX 4070", 12, 504, 58.3, 29.1),
    _card("RTX 4070 SUPER", 12, 504, 71, 35.5),
    _card("RTX 4070 Ti", 12, 504, 80.2, 40.1),
    _card("RTX 4070 Ti SUPER", 16, 672, 88.2, 44.1),
    _card("RTX 4080", 16, 717, 97.5, 48.7),
    _card("RTX 4080 SUPER", 16, 736, 104.4, 52.2),
    _card("RTX 4090", 24, 1008, 165.2, 82.6),
    _card("RTX 5060 Ti-16GB", 16, 448, 47.4, 23.7),
    _card("RTX 5070", 12, 672, 61.7, 30.9),
    _card("RTX 5070 Ti", 16, 896, 87.9, 43.9),
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
    """The card of a name, as people write it (``rtx3090``, ``4090``) or as CUDA does (``Tesla T4``).

    A size of memory may follow the name, and decides where a card is made with several.

    Raises:
        InputError: there is none in the table.
    """
    wanted = _plain(name)
    names = {_plain(card.name): card for card in CARDS}
    names |= {plain[3:]: card for plain, card in names.items() if plain[:3] in ("rtx", "gtx")}
    names |= {"h10080gbhbm3": names["h100sxm"]}  # as CUDA calls it
    if wanted in names:
        return names[wanted]
    if size := re.search(r"(?<=[\s-])(\d+) ?gi?b?\b", name.lower()):
        card = names.get(_plain(name.lower().replace(size[0], "")))
        if card and abs(int(size[1]) / card.memory_gb - 1) < 0.1:  # GB or GiB
            return card
    begins = [card.name for plain, card in names.items() if wanted and plain.startswith(wanted)]
    near = begins or [names[key].name for key in difflib.get_close_matches(wanted, names, n=3)]
    known = ", ".join(dict.fromkeys(near)) or ", ".join(card.name for card in CARDS)
    raise InputError(f"--gpu {name or repr(name)}: is not in the table of cards; use {known}")


def _plain(name: str) -> str:
    words = re.sub(r"nvidia|geforce|tesla|graphics|generation|(?<=sxm)\d", "", name.lower())
    return re.sub(r"(?<!h100)(?<!h100[^a-z0-9])(sxm|pcie)|[^a-z0-9]", "", words)
