"""Forms of one model: float32, and 8-bit integers with fixed or changing scales; and which one is used.

An 8-bit model is a quarter of the size, and may be faster or four times slower: that is measured and not
believed. What it changes is counted on rows drawn from the task's public ranges and categories, because no
other rows are public: a class that is told of a row in another form can cost at most that row's share of the
accuracy.
"""

from __future__ import annotations

import logging
import statistics
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx

from contract.experiment import Experiment, Task
from serving.drawn_rows import drawn_columns
from serving.encoding import Fitting, encode
from serving.export.graph import MODEL_INPUT, input_names, joined, model_graph
from serving.onnx_session import session_of
from serving.prediction import chances_of

__all__ = ["FLOAT32", "Choice", "Variant", "choose", "variants_of"]

FLOAT32, STATIC, DYNAMIC = "float32", "int8 static", "int8 dynamic"
_QUANTIZED = ["Conv", "Gemm", "MatMul"]
"""Operators: with others a GroupNorm network fails in ONNX Runtime's quantizer."""
_SMALLEST = 2**16
"""Bytes of a model below which no other form is made: nothing can be saved."""
_MOST_CHANGED, _FASTER, _SMALLER = 0.005, 0.5, 0.27
_FARTHEST = 0.01
"""Half of what the inference service allows a form to differ (`inference.served`)."""
_CALIBRATION, _COMPARED, _TIMES, _WARM = 256, 2000, 200, 20
_ONE_CLASS = 1


@dataclass(frozen=True, kw_only=True)
class Variant:
    """One form of a model.

    Attributes:
        name: of the form.
        content: the whole graph's file.
        size: bytes of it.
        milliseconds: of one row, preprocessing included, on one core of the machine that exported it: median.
        changed: share of drawn rows of which it tells another class than float32; of a number, the mean
            absolute change as a share of the label's range.
        farthest: the most that a probability differs, or a number as a share of the range, on these rows.
    """

    name: str
    content: bytes
    size: int
    milliseconds: float
    changed: float
    farthest: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Choice:
    """Which form is used.

    Attributes:
        variant: it.
        reason: a sentence.
        measured: of every form: name, bytes, milliseconds, changed.
    """

    variant: Variant
    reason: str
    measured: tuple[Mapping[str, Any], ...]


def choose(variants: tuple[Variant, ...]) -> Choice:
    """The fastest 8-bit form that changes at most half a point, and is twice as fast as float32, or as small
    as .27 of it and no slower; else float32.

    Args:
        variants: float32 first.
    """
    first, *others = variants
    fitting = [
        one
        for one in others
        if one.changed <= _MOST_CHANGED
        and one.farthest <= _FARTHEST
        and (
            one.milliseconds <= _FASTER * first.milliseconds
            or (one.size <= _SMALLER * first.size and one.milliseconds <= first.milliseconds)
        )
    ]
    measured = tuple(
        {"name": one.name, "bytes": one.size, "milliseconds": one.milliseconds, "changed": one.changed}
        for one in variants
    )
    if not others:
        reason = f"float32: with {first.size:,} bytes there is nothing to save"
        return Choice(variant=first, reason=reason, measured=measured)
    if not fitting:
        words = "; ".join(_words(one, first) for one in others)
        return Choice(variant=first, reason=f"float32 stays: {words}", measured=measured)
    best = min(fitting, key=lambda one: one.milliseconds)
    return Choice(variant=best, reason=_words(best, first), measured=measured)


def _words(one: Variant, first: Variant) -> str:
    return (
        f"{one.name} takes {one.milliseconds / first.milliseconds:.2f} of the time and "
        f"{one.size / first.size:.2f} of the bytes, and changes {one.changed:.2%}"
    )


def variants_of(experiment: Experiment, arrays: Mapping[str, npt.NDArray[Any]]) -> tuple[Variant, ...]:
    """Every form of a model, measured; float32 alone of one that is small.

    Raises:
        InputError: no graph comes of a package's model.
    """
    plain = model_graph(experiment, arrays)
    graphs = {FLOAT32: plain}
    inputs = _drawn_inputs(experiment.task, _CALIBRATION + _COMPARED)
    if plain.ByteSize() >= _SMALLEST:
        graphs |= _quantized(plain, inputs[:_CALIBRATION])
    wholes = {name: joined(graph, experiment) for name, graph in graphs.items()}
    if len(graphs) == 1:
        times, changed = {FLOAT32: float("nan")}, {FLOAT32: (0.0, 0.0)}
    else:
        times = _times(wholes, experiment.task)
        is_number = experiment.task.label.range is not None
        changed = _changed(graphs, inputs[_CALIBRATION:], is_number=is_number)
    return tuple(
        Variant(
            name=name,
            content=whole,
            size=len(whole),
            milliseconds=times[name],
            changed=changed[name][0],
            farthest=changed[name][1],
        )
        for name, whole in wholes.items()
    )


def _drawn_inputs(task: Task, rows: int) -> npt.NDArray[np.float32]:
    return encode(drawn_columns(task, rows, np.random.default_rng(0)), task, Fitting(rows))


def _quantized(plain: onnx.ModelProto, rows: npt.NDArray[np.float32]) -> dict[str, onnx.ModelProto]:
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_dynamic, quantize_static
    from onnxruntime.quantization.calibrate import CalibrationDataReader

    class Rows(CalibrationDataReader):  # type: ignore[misc]
        """The drawn rows, in one batch."""

        def __init__(self) -> None:
            self.left = [{MODEL_INPUT: rows}]

        def get_next(self) -> dict[str, Any] | None:
            return self.left.pop() if self.left else None

    with tempfile.TemporaryDirectory() as folder, _quietly():
        source, static, dynamic = (Path(folder) / name for name in ("plain", "static", "dynamic"))
        onnx.save(plain, source)
        quantize_static(
            source,
            static,
            Rows(),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=_QUANTIZED,
            per_channel=True,
            weight_type=QuantType.QInt8,
        )
        quantize_dynamic(source, dynamic, op_types_to_quantize=_QUANTIZED, weight_type=QuantType.QInt8)
        return {STATIC: _as_ours(onnx.load(static), plain), DYNAMIC: _as_ours(onnx.load(dynamic), plain)}


@contextmanager
def _quietly() -> Iterator[None]:
    """Keep the quantizer's advice, which goes to the root logger and gives it a handler, from our users."""
    root, nothing = logging.getLogger(), logging.NullHandler()
    root.addHandler(nothing)
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(logging.NOTSET)
        root.removeHandler(nothing)


def _as_ours(graph: onnx.ModelProto, plain: onnx.ModelProto) -> onnx.ModelProto:
    """With the versions that the other parts state, so that they can be joined."""
    extra = [
        one for one in graph.opset_import if one.domain not in {two.domain for two in plain.opset_import}
    ]
    del graph.opset_import[:]
    graph.opset_import.extend([*plain.opset_import, *extra])
    graph.ir_version = plain.ir_version
    return graph


def _times(wholes: Mapping[str, bytes], task: Task) -> dict[str, float]:
    """Milliseconds of one row, measured in turns."""
    names = input_names(task)
    columns = drawn_columns(task, 1, np.random.default_rng(1))
    feed = {names[name]: values.reshape(1, 1) for name, values in columns.items()}
    sessions = {name: session_of(content) for name, content in wholes.items()}
    found: dict[str, list[float]] = {name: [] for name in wholes}
    for turn in range(_WARM + _TIMES):
        for name, session in sessions.items():
            began = time.perf_counter()
            session.run(None, feed)
            if turn >= _WARM:
                found[name].append(1000 * (time.perf_counter() - began))
    return {name: statistics.median(times) for name, times in found.items()}


def _changed(
    graphs: Mapping[str, onnx.ModelProto], inputs: npt.NDArray[np.float32], *, is_number: bool
) -> dict[str, tuple[float, float]]:
    """How far each tells otherwise than float32."""
    outputs = {
        name: session_of(graph.SerializeToString()).run(None, {MODEL_INPUT: inputs})[0]
        for name, graph in graphs.items()
    }
    return {
        name: _difference(found, outputs[FLOAT32], is_number=is_number) for name, found in outputs.items()
    }


def _difference(found: npt.NDArray[Any], plain: npt.NDArray[Any], *, is_number: bool) -> tuple[float, float]:
    """The share of rows with another class and the greatest difference of a probability; of numbers, the mean
    and the greatest difference as shares of the range."""
    if is_number:  # outputs are in [-1, 1], which is the label's range
        far = np.abs(np.clip(found, -1, 1) - np.clip(plain, -1, 1)) / 2
        return float(far.mean()), float(far.max())
    far = np.abs(chances_of(found.astype(np.float64)) - chances_of(plain.astype(np.float64)))
    if plain.shape[1] == _ONE_CLASS:
        return float(((found > 0) != (plain > 0)).mean()), float(far.max())
    return float((found.argmax(axis=1) != plain.argmax(axis=1)).mean()), float(far.max())
