"""Precision, memory order and compilation of the training step: what was left open is measured here."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch

from ...errors import InputError
from ...training.compilation import CompileOption, compiler_obstacle
from ..doctor.candidates import Candidate, Precision, StepShape, StepTime
from ..doctor.measure_compiled import measure_compiled
from ..doctor.measure_steps import measure_steps
from .store import Measured, Store, cpu_facts

TIE = 0.03
"""Candidates within this part of the fastest count as equally fast."""
FP16_ADVANTAGE = 0.10
"""By which part fp16, with its narrow range, must be faster than bf16 to be preferred."""
COMPILE_DEADLINE_S = 300.0
_PRECISIONS: dict[str, Precision] = {
    "32": "32-true",
    "32-true": "32-true",
    "bf16": "bf16-mixed",
    "bf16-mixed": "bf16-mixed",
    "16": "16-mixed",
    "16-mixed": "16-mixed",
}
_BF16_FLAGS = {"avx512_bf16", "amx_bf16", "bf16"}

MeasureSteps = Callable[..., list[StepTime]]
MeasureCompiled = Callable[..., StepTime]


@dataclass(frozen=True)
class Choice:
    """How the step will be computed, and why."""

    candidate: Candidate
    reason: str
    """A sentence for the log, with the figures that decided."""


@dataclass(frozen=True)
class Wish:
    """What the user fixed; None leaves it to be chosen."""

    precision: Precision | None = None
    channels_last: bool | None = None
    compile: bool | None = None

    def admits(self, candidate: Candidate) -> bool:
        """Whether a candidate is what was fixed."""
        return all(fixed is None or fixed == getattr(candidate, name) for name, fixed in vars(self).items())


def make_wish(precision: str | None, channels_last: bool | str, compile: CompileOption) -> Wish:
    """Options as the user gives them, made definite.

    Raises:
        InputError: a precision that there is not.
    """
    if precision is not None and precision not in _PRECISIONS:
        raise InputError(
            f"trainer.precision {precision} is not supported; use 32-true, bf16-mixed or 16-mixed"
        )
    return Wish(
        None if precision is None else _PRECISIONS[precision],
        None if channels_last == "auto" else bool(channels_last),
        None if compile == "auto" else compile not in (False, "augmentation"),
    )


def choose(
    shape: StepShape,
    precision: str | None,
    channels_last: bool | str,
    compile: CompileOption,
    *,
    store: Store | None = None,
    announce: Callable[[str], None] = lambda _: None,
    budget_s: float = 8.0,
    measure: MeasureSteps = measure_steps,
    measure_compiled: MeasureCompiled = measure_compiled,
) -> Choice:
    """Choose how to compute the step; what was not measured on this machine before is measured now.

    On a CPU the eager candidates are measured, in about ten seconds; compiled ones count where the
    doctor has measured them. On CUDA the fastest eager candidate is measured compiled too.

    Args:
        shape: of the step.
        precision: as ``trainer.precision``; None leaves it open.
        channels_last: as ``model.channels_last``: a bool, or auto.
        compile: as ``model.compile``; auto leaves it open.
        store: where results are kept; the user's if left out.
        announce: is told what is about to be measured.
        budget_s: about how long measuring eager candidates may take.
        measure: measures eager candidates.
        measure_compiled: measures a compiled one.

    Raises:
        InputError: a precision that there is not.
    """
    wish = make_wish(precision, channels_last, compile)
    asked = [c for c in eager_candidates(shape.device) if replace(wish, compile=None).admits(c)]
    if wish.precision is not None and not asked:  # the device would not be asked to, but the user says so
        orders = [True, False] if wish.channels_last is None else [wish.channels_last]
        asked = [Candidate(wish.precision, order, False) for order in orders]
    tries_compiling = wish.compile is None and shape.device_type == "cuda" and not compiler_obstacle("cuda")
    if shape.device_type not in ("cpu", "cuda") or (len(asked) == 1 and not tries_compiling):
        default = default_candidate(shape.device, wish)
        return Choice(default, f"{default}: {_given(wish) or 'nothing else comes into question here'}")
    store = store or Store()
    known = store.read(shape)
    if not {each.time.candidate for each in known} >= set(asked):
        announce(
            f"measuring which of {len(asked)} ways to compute the training step is fastest here; once for "
            "each machine, network and batch shape, in about ten seconds"
        )
        known = store.add(shape, measure(shape, asked, budget_s=budget_s))
    best_eager = select([each.time for each in known if each.time.candidate in asked], shape.device_type)
    if tries_compiling and best_eager is not None:
        compiled = replace(best_eager.candidate, compile=True)
        if compiled not in {each.time.candidate for each in known}:
            announce(f"measuring {compiled}: compiling takes a minute or two, once")
            known = store.add(shape, [measure_compiled(shape, best_eager, deadline_s=COMPILE_DEADLINE_S)])
    return decide(known, wish, shape)


def decide(known: Sequence[Measured], wish: Wish, shape: StepShape) -> Choice:
    """The fastest of the measured candidates that the user admits.

    Where compiling was asked for but not measured, the eager candidates decide the rest.
    """
    admitted = [each for each in known if wish.admits(each.time.candidate)]
    proxy = wish.compile and not admitted
    if proxy:
        admitted = [each for each in known if replace(wish, compile=False).admits(each.time.candidate)]
    reference = _reference([each.time for each in known])
    best = select([each.time for each in admitted], shape.device_type, reference)
    if best is None:
        default = default_candidate(shape.device, wish)
        return Choice(default, f"{default}: by a rule, since no candidate could be measured")
    chosen = replace(best.candidate, compile=True) if proxy else best.candidate
    return Choice(chosen, _reason(chosen, best, admitted, wish, shape, reference))


def select(times: Sequence[StepTime], device_type: str, reference: StepTime | None = None) -> StepTime | None:
    """The fastest candidate whose loss is right; of those as fast as it, the least risky.

    On CUDA fp16 has to be 10 % faster than bf16. Eager goes before compiled, which costs time at the
    start; then, on a CPU, fp32 before bf16, and on CUDA, for the memory, the reverse.

    Args:
        times: what was measured.
        device_type: ``cpu`` or ``cuda``.
        reference: of the right loss; the fp32 candidate among ``times`` if left out.

    Returns:
        None if none could be measured.
    """
    reference = reference or _reference(times)
    right = [time for time in times if time.is_right(reference)]
    if device_type == "cuda":
        half = min((t.quick_ms for t in right if t.candidate.precision == "16-mixed"), default=math.inf)
        brain = min((t.quick_ms for t in right if t.candidate.precision == "bf16-mixed"), default=math.inf)
        if brain <= (1 + FP16_ADVANTAGE) * half and math.isfinite(brain):
            right = [time for time in right if time.candidate.precision != "16-mixed"]
    if not right:
        return None
    fastest = min(time.quick_ms for time in right)
    order = (
        ["bf16-mixed", "16-mixed", "32-true"]
        if device_type == "cuda"
        else ["32-true", "bf16-mixed", "16-mixed"]
    )

    def risk(time: StepTime) -> tuple[bool, int, float]:
        return time.candidate.compile, order.index(time.candidate.precision), time.quick_ms

    return min((time for time in right if time.quick_ms <= (1 + TIE) * fastest), key=risk)


def eager_candidates(device: str) -> list[Candidate]:
    """The eager candidates that are worth measuring on a device; fp32 is always among them."""
    precisions: list[Precision] = ["32-true"]
    if has_native_bf16(device):
        precisions.append("bf16-mixed")
    if device.startswith("cuda"):
        precisions.append("16-mixed")
    return [Candidate(p, order, False) for p, order in itertools.product(precisions, (False, True))]


def has_native_bf16(device: str) -> bool:
    """Whether a device computes in bf16, and does not only imitate it."""
    if device.startswith("cuda"):
        return torch.cuda.get_device_capability(device) >= (8, 0)
    facts = cpu_facts()
    flags = facts.get("flags", facts.get("Features", "")).split()
    return device == "cpu" and torch.backends.mkldnn.is_available() and not _BF16_FLAGS.isdisjoint(flags)


def default_candidate(device: str, wish: Wish) -> Candidate:
    """What is fastest as a rule: bf16 where the device has it, channels last, on CUDA compiled."""
    kind = device.split(":")[0]
    precision: Precision = (
        "bf16-mixed" if has_native_bf16(device) else "16-mixed" if kind == "cuda" else "32-true"
    )
    compiles = kind == "cuda" and not compiler_obstacle("cuda") if wish.compile is None else wish.compile
    channels_last = True if wish.channels_last is None else wish.channels_last
    return Candidate(wish.precision or precision, channels_last, compiles)


def _reference(times: Sequence[StepTime]) -> StepTime | None:
    full = [
        t for t in times if t.candidate.precision == "32-true" and not t.candidate.compile and not t.failure
    ]
    return full[0] if full else None


def _given(wish: Wish) -> str:
    names = {
        "precision": "trainer.precision",
        "channels_last": "model.channels_last",
        "compile": "model.compile",
    }
    fixed = [option for name, option in names.items() if getattr(wish, name) is not None]
    return f"{' and '.join(fixed)} as given" if fixed else ""


def _reason(
    chosen: Candidate,
    best: StepTime,
    admitted: Sequence[Measured],
    wish: Wish,
    shape: StepShape,
    reference: StepTime | None,
) -> str:
    date = max(each.date for each in admitted)
    others = "; ".join(
        f"{each.time.candidate} {_figure(each.time, reference)}" for each in admitted if each.time is not best
    )
    basis = f" {best.candidate}" if chosen != best.candidate else ""
    notes = [f"measured on this machine on {date}"]
    if best.batch_size != shape.batch_size:
        notes.append(f"on batches of {best.batch_size}")
    if best.on_busy_machine:
        notes.append("in CPU time of one thread, because other programs were busy")
    if _given(wish):
        notes.append(_given(wish))
    if (
        shape.device_type == "cpu"
        and wish.compile is None
        and not any(m.time.candidate.compile for m in admitted)
    ):
        notes.append("'yolo-lightning doctor' measures it compiled too")
    listed = f" ({others})" if others else ""
    return f"{chosen}:{basis} {_figure(best, reference)} a step{listed}; {', '.join(notes)}"


def _figure(time: StepTime, reference: StepTime | None) -> str:
    if time.failure:
        return f"failed: {time.failure}"
    figure = f"{time.quick_ms:.3g} ms"
    return figure if time.is_right(reference) else f"{figure} but with a wrong loss"
