"""MobileFaceNet against its published graph, computed operator by operator in numpy, and the file that comes with ganinv."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from ganinv.recognizers.adapters import weight_file
from ganinv.recognizers.loading import load_recognizer
from ganinv.recognizers.published import mobilefacenet
from ganinv.recognizers.published.mobilefacenet import PUBLISHED_SHA256, read_network, ship
from ganinv.weights.cards import read_card

GRAPH = Path(__file__).parent / "data" / "mobilefacenet_graph.json"


# ---- the published graph, in numpy, as TensorFlow.js would compute it but for its two mistakes


def read_graph():
    """Returns (nodes, name -> shape of the weights), long names back in place."""
    said = json.loads(
        GRAPH.read_text().replace("~/", "MobileFaceNet/MobileFaceNet/").replace("@", "BatchNorm/FusedBatchNorm")
    )
    return said["node"], said["weights"]


def draw_weights(shapes):
    """Returns weights, under which no layer dies or grows, of the graph's shapes."""
    random, weights = np.random.default_rng(0), {}
    for name, shape in shapes.items():
        if name.endswith("_weights"):
            fan_in = shape[0] * shape[1] * (1 if "depthwise" in name else shape[2])
            weights[name] = random.normal(size=shape) / math.sqrt(fan_in)
        elif name.endswith("/mul"):
            weights[name] = random.uniform(-0.4, 0.1, size=shape)
        else:
            weights[name] = 0.1 * random.normal(size=shape)
    return {name: np.asarray(value, np.float32) for name, value in weights.items()}


def convolve(x, kernel, stride, padding, *, depthwise):
    """Returns the convolution of x [N,H,W,C] with a kernel [h,w,C,F] or, depthwise, [h,w,C,1]."""
    high, wide = kernel.shape[:2]
    if padding == "SAME":
        need = [
            max((-(-side // stride) - 1) * stride + size - side, 0)
            for side, size in zip(x.shape[1:3], (high, wide), strict=True)
        ]
        x = np.pad(x, [(0, 0), *((total // 2, total - total // 2) for total in need), (0, 0)])
    views = np.lib.stride_tricks.sliding_window_view(x, (high, wide), (1, 2))[:, ::stride, ::stride]  # [N,H,W,C,h,w]
    if depthwise:
        return np.einsum("nabchw,hwc->nabc", views, kernel[..., 0])
    return np.einsum("nabchw,hwcf->nabf", views, kernel, optimize=True)


def compute(nodes, weights, image, *, mended):
    """Returns the embeddings of images [N,112,112,3] by the graph. mended: its PReLUs as their network had them, which are
    written as relu(x) + a * (x - |x|): x as it was before the relu that was fused into it, and a of the other sign."""
    made = {**weights, "img_inputs": image}
    rectified = {}  # by a node's name: what a fused relu made of it
    for node in nodes[1:]:
        kind, ends = node["op"], node.get("attr", {})
        given = [made[name] for name in node["input"] if name in made]
        if kind in ("_FusedConv2D", "FusedDepthwiseConv2dNative"):
            depthwise = "Depthwise" in kind
            y = convolve(given[0], given[1], int(ends["strides"]), ends["padding"], depthwise=depthwise) + given[2]
            if "Relu" in ends["fused"]:
                rectified[node["name"]] = np.maximum(y, 0)
                y = y if mended else rectified[node["name"]]
        elif kind == "Add":
            y = rectified.get(node["input"][0], given[0]) + given[1]
        elif kind == "Mul" and node["name"].endswith("/mul_1"):
            y = given[0] * (-given[1] if mended else given[1])
        elif kind == "Sum":
            y = given[0].sum(-1, keepdims=True)
        else:
            simple = {
                "Relu": lambda x: np.maximum(x, 0), "Abs": np.abs, "Sub": np.subtract, "Mul": np.multiply,
                "Squeeze": lambda x: x[:, 0, 0], "Square": np.square, "Rsqrt": lambda x: 1 / np.sqrt(x),
                "Maximum": np.maximum,
            }  # fmt: skip
            y = simple[kind](*given)
        made[node["name"]] = y
    return made["embeddings"]


def write_model(folder, weights):
    """Returns the .json of a TensorFlow.js model of these weights, its .bin beside it."""
    entries = [{"name": name, "shape": list(value.shape), "dtype": "float32"} for name, value in weights.items()]
    file = folder / "model.json"
    file.write_text(json.dumps({"weightsManifest": [{"paths": ["model.bin"], "weights": entries}]}))
    file.with_suffix(".bin").write_bytes(b"".join(value.tobytes() for value in weights.values()))
    return file


@pytest.fixture(scope="module")
def weights():
    return draw_weights(read_graph()[1])


def test_it_computes_what_the_mended_graph_computes(weights, tmp_path):
    nodes, _ = read_graph()
    chips = torch.rand(2, 3, 112, 112, generator=torch.Generator().manual_seed(1)) * 2 - 1
    fed = chips.permute(0, 2, 3, 1).numpy() * np.float32(127.5 / 128)
    recognizer = load_recognizer(f"mobilefacenet:{write_model(tmp_path, weights)}", "cpu")
    with torch.no_grad():
        found = recognizer.recognize_chips(chips).embeddings.numpy()
    np.testing.assert_allclose(found, compute(nodes, weights, fed, mended=True), atol=1e-3)
    assert abs(found - compute(nodes, weights, fed, mended=False)).max() > 0.05  # as it is written it is another network


def test_the_shipped_file_says_where_it_is_from():
    card = read_card(weight_file("mobilefacenet"))
    assert card["source_sha256"] == PUBLISHED_SHA256 and "MIT" in card["licence"] and "Mandic" in card["attribution"]


def test_the_small_file_rounds_the_weights_alone(weights, tmp_path, monkeypatch):
    file = write_model(tmp_path, weights)
    with pytest.raises(ValueError, match=r"expected SHA-256 bfbf27662ca1\.\.\. of .*model.json"):
        ship(file, tmp_path / "small.safetensors")
    own = {end: mobilefacenet.sha256_file(file.with_suffix(end)) for end in (".json", ".bin")}
    monkeypatch.setattr(mobilefacenet, "PUBLISHED_SHA256", own)
    ship(file, tmp_path / "small.safetensors")
    chips = torch.rand(2, 3, 112, 112) * 2 - 1
    with torch.no_grad():
        ours, theirs = (F.normalize(read_network(path)(chips)) for path in (tmp_path / "small.safetensors", file))
    assert (ours * theirs).sum(1).min() > 0.99
    (tmp_path / "small.json").write_text(json.dumps(read_card(tmp_path / "small.safetensors") | {"kind": "cosine"}))
    with pytest.raises(ValueError, match="expected a card of the kind mobilefacenet beside .*, got cosine"):
        read_network(tmp_path / "small.safetensors")


def test_a_file_of_ones_own_is_named_in_the_log_and_another_is_refused_in_one_line(weights, tmp_path, caplog):
    mobilefacenet.load_mobilefacenet(str(write_model(tmp_path, weights)))
    assert "is not the published file of mobilefacenet" in caplog.text
    name = "MobileFaceNet/Logits/Conv/Conv2D_weights"
    cases = (
        (tmp_path / "none.json", None, "got .*none.json, which is missing"),
        (tmp_path, None, "which is a folder"),
        (Path(__file__), None, "expected mobilefacenet:FILE.json of TensorFlow.js, its .bin beside it, got"),
        (tmp_path / "model.json", {key: value for key, value in weights.items() if key != name}, f"the tensor {name}"),
        (tmp_path / "model.json", {**weights, name: weights[name][:, :, :8]}, r"of shape .*, got \[512, 8, 1, 1\]"),
        (tmp_path / "model.json", {**weights, name: weights[name] * np.nan}, "expected finite values"),
        (tmp_path / "model.json", {**weights, name: weights[name][0]}, "expected a kernel of four dimensions"),
    )  # fmt: skip
    for file, changed, message in cases:
        if changed is not None:
            write_model(tmp_path, changed)
        with pytest.raises(ValueError, match=message) as raised:
            mobilefacenet.load_mobilefacenet(str(file))
        assert "\n" not in str(raised.value)
