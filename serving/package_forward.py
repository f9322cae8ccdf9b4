"""What a package's model computes: here alone torch is needed for a prediction, and the package itself."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from contract.errors import InputError
from contract.experiment import Experiment
from contract.installed_models import load

__all__ = ["judged_module", "package_outputs"]

_AT_ONCE = 256


def package_outputs(
    experiment: Experiment, arrays: Mapping[str, npt.NDArray[Any]], features: npt.NDArray[np.float32]
) -> npt.NDArray[np.float64]:
    """The outputs (logits, or a number) of a package's model, shape [n, outputs].

    Args:
        experiment: names the package.
        arrays: the model's parameters.
        features: float32 [n, inputs].

    Raises:
        InputError: torch or the very version of the package is not installed here.
    """
    torch = _torch(experiment)
    module = judged_module(experiment, arrays)
    with torch.no_grad():
        parts = torch.split(torch.from_numpy(np.ascontiguousarray(features, dtype=np.float32)), _AT_ONCE)
        found = [module(part).numpy() for part in parts if len(part)]
    if not found:
        classes = len(experiment.task.label.classes)
        return np.empty((0, 1 if classes in (0, 2) else classes))
    return np.concatenate(found).astype(np.float64)


def judged_module(experiment: Experiment, arrays: Mapping[str, npt.NDArray[Any]]) -> Any:
    """The package's module with these parameters, whose outputs are what predictions are made of.

    Arguments and errors as with `package_outputs`.
    """
    family, torch = load(experiment.model), _torch(experiment)
    classes = len(experiment.task.label.classes)
    module = family.build(inputs=experiment.task.width, classes=classes).eval()
    with torch.no_grad():
        for name, value in module.named_parameters():
            value.copy_(torch.from_numpy(np.array(arrays[name])))

    class Judged(torch.nn.Module):  # type: ignore[misc, name-defined]
        """The module and the family's word on its outputs."""

        def __init__(self) -> None:
            super().__init__()
            self.module = module

        def forward(self, inputs: Any) -> Any:
            return family.judged(self.module(inputs))

    return Judged().eval()


def _torch(experiment: Experiment) -> Any:
    try:
        import torch
    except ImportError as exc:
        raise InputError(
            f"a prediction of a model of the package {experiment.model.package} needs torch",
            where="this machine",
            remedy="Install it: pip install torch",
        ) from exc
    return torch
