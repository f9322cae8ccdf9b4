"""Where a site computes: on its processor, or on a CUDA device of its own.

A device computes a model's outputs and the sums of clipped gradients, and nothing else. Batches are drawn on
the processor from the operating system's entropy, and noise is made and added there, on its grid
(`clients.mechanisms.noise`): a sum goes to the processor, is made private, and only then comes back.

The guarantee rests on the same two facts as on a processor.

* A row's numbers do not depend on the rows beside it. Within `exact`, the device's libraries use one program
  for a call of one shape, and no order that changes from call to call; whether a row then keeps its bits
  wherever it lies is tried on public random numbers for the model's own shapes, before anything is charged
  (`clients.mechanisms.places`). A device on which one bit differs is not used for that model.
* The rounding of a sum is covered by `clipping.SLACK`, which holds for additions in any order, in the
  precisions that it names. So products are never rounded to fewer bits than theirs: TF32 is off, and half
  precision is not offered, because its rounding would have to be charged.

Which device computes a release follows from public facts alone: the site's setting, the model, its shapes
and that trial. It does not change once rows are read. A device that runs out of memory because of the rows,
with the processor in its place, would be two mechanisms of different rounding, between which one row decides.
So the trial makes calls as large as every later one, the library keeps the memory that they took, and rows
come to the device a block at a time. Where it fails nevertheless the release fails, and this process uses the
device no more.

Not measured on a device here: tests that need one are skipped by name where there is none.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Literal

import torch

from contract.errors import InputError

__all__ = ["CPU", "Wish", "device_for", "exact", "in_use", "usable"]

Wish = Literal["auto", "cpu", "cuda"]
"""What `agent.device` of a site.toml may say."""

CPU = torch.device("cpu")

_WORTH = 100_000
"""Parameters from which `auto` takes a device: a smaller model waits for the way there and back."""
_log = logging.getLogger("tidegate.site")
_failed: set[torch.device] = set()
"""Devices that failed in the middle of a release: after such a call all later ones of a process may."""


def device_for(wish: Wish, parameters: int) -> torch.device:
    """Where a model is tried first.

    Args:
        wish: the site's setting.
        parameters: of the model.
    """
    if wish == "cpu" or (wish == "auto" and parameters < _WORTH):
        return CPU
    device = _cuda()
    return CPU if device is None or device in _failed else device


def _cuda() -> torch.device | None:
    return torch.device("cuda", torch.cuda.current_device()) if torch.cuda.is_available() else None


def usable(wish: Wish, parameters: int, trial: Callable[[torch.device], None]) -> torch.device:
    """The device on which a trial succeeds: the processor where another fails, which the site's log says.

    Args:
        wish: the site's setting.
        parameters: of the model.
        trial: on public numbers; raises where the device cannot compute as stated.

    Raises:
        InputError: of the trial on the processor.
    """
    wanted = device_for(wish, parameters)
    if wanted != CPU:
        try:
            with exact(wanted):
                trial(wanted)
        except (InputError, RuntimeError) as exc:  # of the latter kind is also a lack of memory
            reason = str(exc).splitlines()[0] if str(exc) else type(exc).__name__
            _log.warning("computed on the processor, because %s cannot: %s", wanted, reason)
        else:
            return wanted
    elif wish == "cuda":
        _log.warning("computed on the processor, because there is no CUDA device that this process can use")
    trial(CPU)
    return CPU


@contextmanager
def exact(device: torch.device) -> Iterator[None]:
    """Within it, a device computes in full precision, and alike in every call of one shape."""
    if device == CPU:
        yield
        return
    before = torch.are_deterministic_algorithms_enabled(), torch.get_float32_matmul_precision()
    cudnn = torch.backends.cudnn
    torch.use_deterministic_algorithms(True)
    torch.set_float32_matmul_precision("highest")
    try:
        with cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False):
            yield
    finally:
        torch.use_deterministic_algorithms(before[0])
        torch.set_float32_matmul_precision(before[1])


@contextmanager
def in_use(device: torch.device) -> Iterator[None]:
    """Compute a release on a device that `usable` gave; where that fails, this process uses it no more."""
    try:
        with exact(device):
            yield
    except RuntimeError:
        if device != CPU:
            _failed.add(device)
        raise
