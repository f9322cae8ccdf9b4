"""A model version as one ONNX graph, with its public preprocessing inside: raw columns in, predictions out.

Three parts, each a graph of its own that the next is joined to: `preparing` (`serving/encoding.py` as
operators), the model, and `telling` (what `serving/prediction.py` makes of its outputs). The model alone is
quantized.

| input | type | a missing value |
| --- | --- | --- |
| each number, by its feature's name | double (rows, 1) | NaN |
| each category, by its feature's name | string (rows, 1), as `serving.values.texts` has it | the empty text |

| output | type | of a row that does not fit |
| --- | --- | --- |
| `prediction` | string (rows, 1), or double of a number | the empty text, NaN |
| `probabilities` | double (rows, classes); none of a number | NaN |
| `fits` | bool (rows, 1) | false |

The graphs of our own kinds are written here, so that a server needs no deep-learning library to make them. A
package's model goes through PyTorch's exporter (dynamo), where torch is installed.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, compose, helper, numpy_helper

from contract.errors import InputError
from contract.experiment import CategoricalFeature, Experiment, Model, NumericFeature, Task
from contract.model_families import outputs as outputs_for
from serving.forward import EPSILON, GROUPS
from serving.onnx_session import session_of

__all__ = [
    "FITS",
    "MODEL_INPUT",
    "OPSET",
    "PREDICTION",
    "PROBABILITIES",
    "input_names",
    "joined",
    "model_graph",
]

OPSET, _ML_OPSET, _IR = 20, 3, 10
"""Versions of ONNX's operators, of the classical ones, and of the file: ONNX Runtime 1.18 reads them."""
PREDICTION, PROBABILITIES, FITS = "prediction", "probabilities", "fits"
MODEL_INPUT, _MODEL_OUTPUT = "model/inputs", "model/outputs"
_INPUTS, _FITTING = "preparing/inputs", "preparing/fits"
_TOLD, _TOLD_FITS = "telling/outputs", "telling/fits"
_ROWS = "rows"
_EXAMPLE = 7
"""Rows of the example that PyTorch's exporter follows: a number that is no size within a model."""
_AGREES = 1e-5
"""How far an output may be from torch's, absolute or of its size."""

Array = npt.NDArray[Any]


class _Graph:
    """Nodes and constants as they are added; every name begins with the part's own."""

    def __init__(self, part: str) -> None:
        self.part, self.nodes, self.constants = part, list[Any](), list[Any]()

    def constant(self, values: Array) -> str:
        """A constant; gives its name."""
        name = f"{self.part}/constant{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.ascontiguousarray(values), name))
        return name

    def texts(self, values: Sequence[str]) -> str:
        """A constant of texts; gives its name."""
        name = f"{self.part}/constant{len(self.constants)}"
        encoded: Any = [value.encode() for value in values]
        self.constants.append(helper.make_tensor(name, TensorProto.STRING, [len(values)], encoded))
        return name

    def node(self, kind: str, *inputs: str, output: str = "", domain: str = "", **attributes: Any) -> str:
        """An operator; gives the name of its one output."""
        output = output or f"{self.part}/{kind}{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, inputs, [output], domain=domain, **attributes))
        return output

    def model(self, inputs: Sequence[Any], outputs: Sequence[Any]) -> onnx.ModelProto:
        """The whole of it."""
        graph = helper.make_graph(self.nodes, self.part, inputs, outputs, self.constants)
        versions = [helper.make_opsetid("", OPSET), helper.make_opsetid("ai.onnx.ml", _ML_OPSET)]
        return helper.make_model(graph, opset_imports=versions, ir_version=_IR, producer_name="tidegate")


def input_names(task: Task) -> dict[str, str]:
    """The graph's input of each feature: its own name, where that is not the name of an output."""
    taken = {PREDICTION, PROBABILITIES, FITS}
    return {one.name: f"feature.{one.name}" if one.name in taken else one.name for one in task.features}


def joined(model: onnx.ModelProto, experiment: Experiment) -> bytes:
    """The file of the whole: preprocessing, a graph of the model, and what is told of its outputs."""
    task = experiment.task
    whole = compose.merge_models(_preparing(task), model, io_map=[(_INPUTS, MODEL_INPUT)])
    telling = _telling(task)
    whole = compose.merge_models(
        whole, telling, io_map=[(_MODEL_OUTPUT, _TOLD), (_FITTING, _TOLD_FITS)], name=experiment.name
    )
    helper.set_model_props(whole, {"tidegate.experiment_sha256": experiment.digest})
    onnx.checker.check_model(whole)
    content: bytes = whole.SerializeToString(deterministic=True)
    return content


def model_graph(experiment: Experiment, arrays: Mapping[str, Array]) -> onnx.ModelProto:
    """The model alone: from a row's encoded inputs to its outputs, float32.

    Raises:
        InputError: of a package's model: torch or the package is not installed here, or no graph comes of it.
    """
    if experiment.model.kind == "package":
        return _of_package(experiment, arrays)
    graph = _Graph("model")
    if experiment.model.kind == "cnn":
        _cnn(graph, experiment.model, arrays)
    else:
        _layers(graph, arrays)
    return graph.model(*_model_ends(experiment))


def _model_ends(experiment: Experiment) -> tuple[list[Any], list[Any]]:
    task = experiment.task
    last = outputs_for(len(task.label.classes))
    return (
        [helper.make_tensor_value_info(MODEL_INPUT, TensorProto.FLOAT, [_ROWS, task.width])],
        [helper.make_tensor_value_info(_MODEL_OUTPUT, TensorProto.FLOAT, [_ROWS, last])],
    )


def _layers(graph: _Graph, arrays: Mapping[str, Array]) -> None:
    count, values = len(arrays) // 2, MODEL_INPUT
    for layer in range(count):
        weight, bias = (graph.constant(arrays[f"layers.{layer}.{part}"]) for part in ("weight", "bias"))
        is_last = layer == count - 1
        values = graph.node("Gemm", values, weight, bias, transB=1, output=_MODEL_OUTPUT if is_last else "")
        if not is_last:
            values = graph.node("Relu", values)


def _cnn(graph: _Graph, model: Model, arrays: Mapping[str, Array]) -> None:
    if model.image is None:
        raise ValueError("a cnn without an image's size: the experiment's check lets none pass")
    pixels = graph.node("Reshape", MODEL_INPUT, graph.constant(np.array([-1, *model.image], np.int64)))
    height, width = model.image[1:]
    for number in (1, 2):
        given = {part: arrays[f"{part}{number}.weight"] for part in ("convolution", "norm")}
        channels = len(given["convolution"])
        pixels = graph.node(
            "Conv",
            pixels,
            graph.constant(given["convolution"]),
            graph.constant(arrays[f"convolution{number}.bias"]),
            pads=[1, 1, 1, 1],
        )
        grouped = graph.node("Reshape", pixels, graph.constant(np.array([0, GROUPS, -1], np.int64)))
        ones, zeros = (
            graph.constant(np.ones(GROUPS, np.float32)),
            graph.constant(np.zeros(GROUPS, np.float32)),
        )
        normal = graph.node("InstanceNormalization", grouped, ones, zeros, epsilon=EPSILON)
        normal = graph.node(
            "Reshape", normal, graph.constant(np.array([-1, channels, height, width], np.int64))
        )
        scaled = graph.node("Mul", normal, graph.constant(given["norm"][:, None, None]))
        moved = graph.node("Add", scaled, graph.constant(arrays[f"norm{number}.bias"][:, None, None]))
        pixels = graph.node("MaxPool", graph.node("Relu", moved), kernel_shape=[2, 2], strides=[2, 2])
        height, width = height // 2, width // 2
    flat = graph.node("Flatten", pixels, axis=1)
    weight, bias = graph.constant(arrays["output.weight"]), graph.constant(arrays["output.bias"])
    graph.node("Gemm", flat, weight, bias, transB=1, output=_MODEL_OUTPUT)


def _of_package(experiment: Experiment, arrays: Mapping[str, Array]) -> onnx.ModelProto:
    """PyTorch's own export, which is tried on other numbers of rows than it was made with.

    Its exporter (torch 2.13, dynamo) may write the number of rows of its example into the graph, without a
    word.
    """
    from serving.package_forward import judged_module

    module, width = judged_module(experiment, arrays), experiment.task.width
    import torch

    buffer = io.BytesIO()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's of torch's own
            program: Any = torch.onnx.export(
                module,
                (torch.zeros(_EXAMPLE, width),),
                input_names=[MODEL_INPUT],
                output_names=[_MODEL_OUTPUT],
                opset_version=OPSET,
                dynamo=True,
                dynamic_shapes=({0: torch.export.Dim(_ROWS, min=1)},),
                verbose=False,
            )
        program.save(buffer, external_data=False)
        exported = onnx.load_model_from_string(buffer.getvalue())
        exported = compose.add_prefix(exported, "model/", rename_inputs=False, rename_outputs=False)
        del exported.opset_import[:]
        exported.opset_import.extend(
            [helper.make_opsetid("", OPSET), helper.make_opsetid("ai.onnx.ml", _ML_OPSET)]
        )
        exported.ir_version = _IR
        _require_agreement(exported, module, width)
    except Exception as exc:  # of many kinds, and of three libraries
        words = str(exc).strip().splitlines() or [""]
        raise InputError(
            f"PyTorch's exporter makes no graph of it ({type(exc).__name__}: {words[0][:200]})",
            where=f"model package '{experiment.model.package}'",
            remedy="It is served by torch, where the package is installed",
        ) from exc
    return exported


def _require_agreement(exported: onnx.ModelProto, module: Any, width: int) -> None:
    import torch

    session = session_of(exported.SerializeToString())
    for count in (1, 5):
        rows = np.random.default_rng(count).uniform(-1, 1, (count, width)).astype(np.float32)
        with torch.no_grad():
            wanted = module(torch.from_numpy(rows)).numpy()
        (found,) = session.run(None, {MODEL_INPUT: rows})
        far = np.abs(found - wanted) / np.maximum(1, np.abs(wanted))
        if found.shape != wanted.shape or not far.max() <= _AGREES:
            raise ValueError(f"for {count} rows it tells otherwise than the model")


def _preparing(task: Task) -> onnx.ModelProto:
    graph, names = _Graph("preparing"), input_names(task)
    numeric = [one for one in task.features if isinstance(one, NumericFeature)]
    categorical = [one for one in task.features if isinstance(one, CategoricalFeature)]
    parts, wrong = list[str](), list[str]()
    if numeric:
        _numbers(graph, task, numeric, names, parts, wrong)
    if categorical:
        _categories(graph, categorical, names, parts, wrong)
    inputs = graph.node("Concat", *parts, axis=1)
    order = _order(task, numeric, categorical)
    if (order != np.arange(len(order))).any():
        inputs = graph.node("Gather", inputs, graph.constant(order), axis=1)
    if task.scaling == "symmetric":
        two, one = (graph.constant(np.array(value, np.float32)) for value in (2, 1))
        inputs = graph.node("Sub", graph.node("Mul", inputs, two), one)
    graph.node("Identity", inputs, output=_INPUTS)
    counted = graph.node("Cast", graph.node("Concat", *wrong, axis=1), to=TensorProto.FLOAT)
    any_wrong = graph.node("ReduceMax", counted, graph.constant(np.array([1], np.int64)), keepdims=1)
    graph.node("Not", graph.node("Cast", any_wrong, to=TensorProto.BOOL), output=_FITTING)
    kinds = {one.name: TensorProto.DOUBLE for one in numeric} | {
        one.name: TensorProto.STRING for one in categorical
    }
    return graph.model(
        [
            helper.make_tensor_value_info(names[one.name], kinds[one.name], [_ROWS, 1])
            for one in task.features
        ],
        [
            helper.make_tensor_value_info(_INPUTS, TensorProto.FLOAT, [_ROWS, task.width]),
            helper.make_tensor_value_info(_FITTING, TensorProto.BOOL, [_ROWS, 1]),
        ],
    )


def _numbers(
    graph: _Graph,
    task: Task,
    features: Sequence[NumericFeature],
    names: Mapping[str, str],
    parts: list[str],
    wrong: list[str],
) -> None:
    """All numbers at once, as `serving.encoding.encode_number` does one."""

    def row(values: Sequence[float]) -> str:
        return graph.constant(np.array([values], np.float64))

    given = graph.node("Concat", *(names[one.name] for one in features), axis=1)
    missing = graph.node("IsNaN", given)
    refuses = np.array([[one.missing is None for one in features]])
    wrong.append(graph.node("And", missing, graph.constant(refuses)))
    stand_ins = row([one.low if one.missing is None else one.missing for one in features])
    values = graph.node("Where", missing, stand_ins, given)
    low, high = row([one.low for one in features]), row([one.high for one in features])
    if task.out_of_range == "leave-out":
        wrong.append(graph.node("Or", graph.node("Less", values, low), graph.node("Greater", values, high)))
    inside = graph.node("Min", graph.node("Max", values, low), high)
    logarithmic = np.array([[one.transform == "log1p" for one in features]])
    if logarithmic.any():
        grown = graph.node("Log", graph.node("Add", inside, row([1.0] * len(features))))
        inside = graph.node("Where", graph.constant(logarithmic), grown, inside)
    begins = row([one.scaled_range[0] for one in features])
    width = row([one.scaled_range[1] - one.scaled_range[0] for one in features])
    scaled = graph.node("Div", graph.node("Sub", inside, begins), width)
    bounded = graph.node("Min", graph.node("Max", scaled, row([0.0])), row([1.0]))
    parts.append(graph.node("Cast", bounded, to=TensorProto.FLOAT))


def _categories(
    graph: _Graph,
    features: Sequence[CategoricalFeature],
    names: Mapping[str, str],
    parts: list[str],
    wrong: list[str],
) -> None:
    """A place in its list for each category, and of these one column a category."""
    codes = []
    for one in features:
        places = {name: place for place, name in enumerate(one.categories)}
        places[""] = -1 if one.missing is None else places[one.missing]
        codes.append(
            graph.node(
                "LabelEncoder",
                names[one.name],
                domain="ai.onnx.ml",
                keys_strings=list(places),
                values_int64s=list(places.values()),
                default_int64=-1 if one.other is None else places[one.other],
            )
        )
    code = graph.node("Concat", *codes, axis=1)
    wrong.append(graph.node("Less", code, graph.constant(np.array([[0]], np.int64))))
    owner = [number for number, one in enumerate(features) for _ in one.categories]
    place = [place for one in features for place in range(len(one.categories))]
    spread = graph.node("Gather", code, graph.constant(np.array(owner, np.int64)), axis=1)
    found = graph.node("Equal", spread, graph.constant(np.array([place], np.int64)))
    parts.append(graph.node("Cast", found, to=TensorProto.FLOAT))


def _order(
    task: Task, numeric: Sequence[NumericFeature], categorical: Sequence[CategoricalFeature]
) -> npt.NDArray[np.int64]:
    """Where each of the model's inputs stands: numbers come first in the graph, in the task as they are."""
    starts, after = {one.name: place for place, one in enumerate(numeric)}, len(numeric)
    for one in categorical:
        starts[one.name] = after
        after += len(one.categories)
    wide = {one.name: len(one.categories) for one in categorical}
    order = [starts[one.name] + place for one in task.features for place in range(wide.get(one.name, 1))]
    return np.array(order, np.int64)


def _telling(task: Task) -> onnx.ModelProto:
    graph, label = _Graph("telling"), task.label
    rows = [helper.make_tensor_value_info(FITS, TensorProto.BOOL, [_ROWS, 1])]
    nothing = graph.constant(np.array([[np.nan]]))
    wide = graph.node("Cast", _TOLD, to=TensorProto.DOUBLE)
    if label.range is not None:
        low, high = label.range.low, label.range.high
        one, half = graph.constant(np.array([[1.0]])), graph.constant(np.array([[(high - low) / 2]]))
        known = graph.node("Where", graph.node("IsNaN", wide), graph.constant(np.array([[0.0]])), wide)
        share = graph.node("Min", graph.node("Max", known, graph.constant(np.array([[-1.0]]))), one)
        number = graph.node("Mul", graph.node("Add", share, one), half)
        number = graph.node("Add", number, graph.constant(np.array([[low]])))
        graph.node("Where", _TOLD_FITS, number, nothing, output=PREDICTION)
        rows.insert(0, helper.make_tensor_value_info(PREDICTION, TensorProto.DOUBLE, [_ROWS, 1]))
    else:
        if outputs_for(len(label.classes)) == 1:  # one logit, of the last class
            last_class = graph.node("Sigmoid", wide)
            other = graph.node("Sub", graph.constant(np.array([[1.0]])), last_class)
            chances = graph.node("Concat", other, last_class, axis=1)
        else:
            chances = graph.node("Softmax", wide, axis=1)
        graph.node("Where", _TOLD_FITS, chances, nothing, output=PROBABILITIES)
        greatest = graph.node("ArgMax", chances, axis=1, keepdims=1)
        named = graph.node("Gather", graph.texts(label.classes), greatest)
        graph.node("Where", _TOLD_FITS, named, graph.texts([""]), output=PREDICTION)
        count = len(label.classes)
        rows[:0] = [
            helper.make_tensor_value_info(PREDICTION, TensorProto.STRING, [_ROWS, 1]),
            helper.make_tensor_value_info(PROBABILITIES, TensorProto.DOUBLE, [_ROWS, count]),
        ]
    graph.node("Identity", _TOLD_FITS, output=FITS)
    last = outputs_for(len(label.classes))
    return graph.model(
        [
            helper.make_tensor_value_info(_TOLD, TensorProto.FLOAT, [_ROWS, last]),
            helper.make_tensor_value_info(_TOLD_FITS, TensorProto.BOOL, [_ROWS, 1]),
        ],
        rows,
    )
