"""ONNX files as networks of torch modules: data, read by onnx2torch once they are in the words that it knows."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from ganinv.recognizers.callable import brief
from ganinv.recognizers.exported import ANY_BATCH, Program, read_shape

OLDEST_OPSET, NEWEST_OPSET = 9, 17  # of ONNX, in whose words onnx2torch 1.5 reads Flatten, ReduceMean and their like
WHOLE = (0.0, 255.0)  # what pictures of whole numbers are


def read_onnx(path: Path, device: torch.device) -> Program:
    """Returns an ONNX graph as a network of torch modules, in float32, and what it says of its input.

    Raises: ValueError when onnx or onnx2torch is missing, the file is no ONNX file, or has operators that onnx2torch lacks.
    """
    try:
        import onnx
        import onnx.version_converter
        import onnx2torch
    except ImportError as error:
        raise ValueError(f"expected onnx2torch to read {path}, got none ({error}); pip install onnx onnx2torch") from error
    from google.protobuf.message import DecodeError

    try:
        model = onnx.load(str(path))
        onnx.checker.check_model(model)
    except (DecodeError, onnx.checker.ValidationError, OSError) as error:
        raise ValueError(
            f"expected an ONNX file, got {path}, which cannot be read ({brief(error)}); copy or export it again"
        ) from error
    weights = {tensor.name for tensor in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in weights]
    if len(inputs) != 1 or len(inputs[0].type.tensor_type.shape.dim) != 4:
        raise ValueError(
            f"expected one input of images [N,C,H,W], got {[value.name for value in inputs]} in {path}"
            "; export it with the images alone"
        )
    sides = [side.dim_value or None for side in inputs[0].type.tensor_type.shape.dim]  # 0: any
    whole = take_floats(model, inputs[0])
    try:
        network = onnx2torch.convert(simplify(model))
    except (NotImplementedError, RuntimeError) as error:  # the second: onnx has no way to the other version
        raise ValueError(
            f"expected operators that onnx2torch knows, got others in {path} ({brief(error)}); export it with torch.export"
        ) from error
    said = {"range": WHOLE if whole else None, **read_shape(sides[1:])}
    return Program(network.eval(), least=sides[0] or 1, most=sides[0] or ANY_BATCH, **said)


def take_floats(model, fed) -> bool:
    """Makes a graph compute in float32, and take it: 16 or 64 bits would be another type than the pictures'.

    fed: its input. Returns whether that was of whole numbers, from which no gradient comes back; the cast behind it stays.
    """
    from onnx import AttributeProto, TensorProto, numpy_helper

    other = (TensorProto.FLOAT16, TensorProto.DOUBLE, TensorProto.BFLOAT16)
    graph, fed = model.graph, fed.type.tensor_type
    floats = (TensorProto.FLOAT, *other)
    if fed.elem_type in other or any(tensor.data_type in other for tensor in graph.initializer):
        attributes = [attribute for node in graph.node for attribute in node.attribute]
        tensors = [attribute.t for attribute in attributes if attribute.type == AttributeProto.TENSOR]
        for tensor in (*graph.initializer, *tensors):
            if tensor.data_type in other:
                values = numpy_helper.to_array(tensor).astype(np.float32)
                tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
        for attribute in attributes:
            if attribute.name == "to" and attribute.i in other:  # of a Cast
                attribute.i = TensorProto.FLOAT
        for value in (*graph.input, *graph.output, *graph.value_info):
            if value.type.tensor_type.elem_type in other:
                value.type.tensor_type.elem_type = TensorProto.FLOAT
    whole = fed.elem_type not in floats
    fed.elem_type = TensorProto.FLOAT
    return whole


def simplify(model):
    """Returns an ONNX graph in the words that onnx2torch knows most operators of: those of versions 9 to 17.

    It wants numbers among the weights, which torch.onnx writes as nodes of their own, no names for inputs that are left out,
    and refuses Reshape with allowzero=1, which without a zero in the shape says nothing.
    """
    import onnx

    (version,) = [entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")] or [0]
    if not OLDEST_OPSET <= version <= NEWEST_OPSET:
        model = onnx.version_converter.convert_version(model, NEWEST_OPSET if version > NEWEST_OPSET else OLDEST_OPSET)
    constants = [node for node in model.graph.node if node.op_type == "Constant" and node.attribute[0].name == "value"]
    for node in constants:
        node.attribute[0].t.name = node.output[0]
        model.graph.initializer.append(node.attribute[0].t)
        model.graph.node.remove(node)
    known = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    for node in model.graph.node:
        while node.input and not node.input[-1]:
            del node.input[-1]
        if node.op_type == "Reshape" and node.input[1] in known and (known[node.input[1]] != 0).all():
            kept = [attribute for attribute in node.attribute if attribute.name != "allowzero"]
            del node.attribute[:]
            node.attribute.extend(kept)
    return model
