"""The trunk of MobileNetV2: the network that Keras names, with its batch norms folded."""

from __future__ import annotations

import json

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file

from ganinv.training import frozen_features
from ganinv.training.mobilenet import MobileNetV2, load_mobilenet
from ganinv.weights.files import save_weights
from ganinv.weights.tfjs import read_tfjs

CHANNELS = [16, 24, 24, 32]  # of the first blocks' outputs


@pytest.fixture(scope="module")
def tensors() -> dict[str, torch.Tensor]:
    """Keras' tensors of the first four blocks, random."""
    generator, found = torch.Generator().manual_seed(0), {}

    def add(conv: str, norm: str, side: int, inputs: int, outputs: int) -> None:
        depthwise = conv.endswith("depthwise")
        kernel = torch.randn(side, side, inputs, 1 if depthwise else outputs, generator=generator)
        found[f"{conv}/{'depthwise_kernel' if depthwise else 'kernel'}"] = kernel / (side * side * inputs) ** 0.5
        for name in ("gamma", "moving_variance"):
            found[f"{norm}/{name}"] = torch.rand(outputs, generator=generator) + 0.5
        for name in ("beta", "moving_mean"):
            found[f"{norm}/{name}"] = torch.randn(outputs, generator=generator) / 4

    add("Conv1", "bn_Conv1", 3, 3, 32)
    add("expanded_conv_depthwise", "expanded_conv_depthwise_BN", 3, 32, 32)
    add("expanded_conv_project", "expanded_conv_project_BN", 1, 32, 16)
    for index, (inputs, outputs) in enumerate(zip(CHANNELS, CHANNELS[1:], strict=False), 1):
        wide = 6 * inputs
        for part, side, a, b in (("expand", 1, inputs, wide), ("depthwise", 3, wide, wide), ("project", 1, wide, outputs)):
            add(f"block_{index}_{part}", f"block_{index}_{part}_BN", side, a, b)
    return found


def run_layer(x, tensors, conv, norm, *, stride=1, active=True):
    """A layer as Keras computes it: convolution, batch norm apart, ReLU6."""
    depthwise = f"{conv}/depthwise_kernel" in tensors
    kernel = tensors[f"{conv}/depthwise_kernel"] if depthwise else tensors[f"{conv}/kernel"]
    kernel = kernel.permute(2, 3, 0, 1) if depthwise else kernel.permute(3, 2, 0, 1)
    side = kernel.shape[2]
    x = F.pad(x, (0, 1, 0, 1)) if stride == 2 else F.pad(x, (side // 2,) * 4)
    x = F.conv2d(x, kernel, stride=stride, groups=len(kernel) if depthwise else 1)
    names = ("moving_mean", "moving_variance", "gamma", "beta")
    x = F.batch_norm(x, *(tensors[f"{norm}/{name}"] for name in names), eps=1e-3)
    return F.relu6(x) if active else x


def run_reference(x, tensors, count):
    outputs = []
    x = run_layer(x, tensors, "Conv1", "bn_Conv1", stride=2)
    x = run_layer(x, tensors, "expanded_conv_depthwise", "expanded_conv_depthwise_BN")
    x = run_layer(x, tensors, "expanded_conv_project", "expanded_conv_project_BN", active=False)
    outputs.append(x)
    for index in range(1, count):
        y, name = x, f"block_{index}"
        for part, how in (
            ("expand", {}), ("depthwise", {"stride": 2 if index in (1, 3) else 1}), ("project", {"active": False}),
        ):  # fmt: skip
            y = run_layer(y, tensors, f"{name}_{part}", f"{name}_{part}_BN", **how)
        x = x + y if index == 2 else y  # the one block here that keeps side and channels
        outputs.append(x)
    return outputs


def test_the_folded_trunk_is_the_network(tensors):
    x = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    trunk = MobileNetV2(tensors, taps=(0, 2, 3))
    maps, reference = trunk(x), run_reference(x, tensors, 4)
    assert [tuple(one.shape[1:]) for one in maps] == [(16, 16, 16), (24, 8, 8), (32, 4, 4)]
    for one, index in zip(maps, trunk.taps, strict=True):
        torch.testing.assert_close(one, reference[index], atol=1e-4, rtol=1e-4)
    assert not any(parameter.requires_grad for parameter in trunk.parameters())


def test_a_trunk_is_loaded_from_a_file_with_its_card(tensors, tmp_path, monkeypatch):
    file = tmp_path / "trunk.safetensors"
    save_weights(file, tensors, {"kind": "mobilenet_v2"})
    trunk = load_mobilenet(file, (2, 3))
    monkeypatch.setattr(frozen_features, "load_mobilenet", lambda path: load_mobilenet(path, (2, 3)))
    features = frozen_features.load_features(str(file), torch.device("cpu"))
    pictures = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    maps, embeddings = features.look(pictures * 2 - 1)
    assert embeddings is None and len(maps) == 2
    for one, other in zip(maps, trunk(pictures), strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)
    perceptual, identity = frozen_features.measure_distance(features, pictures, 1 - pictures)
    assert perceptual > 0 and identity == 0


def test_a_tensor_that_is_missing_is_named(tensors, tmp_path):
    with pytest.raises(ValueError, match="expected the tensor block_4_expand/kernel of a MobileNetV2"):
        MobileNetV2(tensors, taps=(4,))
    save_file({"a": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match="expected the tensor Conv1/kernel"):
        load_mobilenet(tmp_path / "other.safetensors")


def write_tfjs(folder, tensors, *, rest: bytes = b""):
    """A layers model of TensorFlow.js: one tensor as bytes with scale and minimum, the others as they are."""
    entries, raw = [], b""
    for name, value in tensors.items():
        entry = {"name": name, "shape": [*value.shape], "dtype": "float32"}
        if name == "Conv1/kernel":
            low, step = value.min().item(), (value.max() - value.min()).item() / 255
            raw += ((value - low) / step).round().to(torch.uint8).numpy().tobytes()
            entry["quantization"] = {"dtype": "uint8", "min": low, "scale": step}
        else:
            raw += value.numpy().tobytes()
        entries.append(entry)
    (folder / "model.json").write_text(json.dumps({"weightsManifest": [{"paths": ["model.bin"], "weights": entries}]}))
    (folder / "model.bin").write_bytes(raw + rest)
    return folder / "model.json"


def test_a_model_of_tensorflow_js_is_read(tensors, tmp_path):
    found = read_tfjs(write_tfjs(tmp_path, tensors))
    assert found.keys() == tensors.keys()
    for name, value in tensors.items():
        step = (value.max() - value.min()) / 255 if name == "Conv1/kernel" else 0.0
        assert (found[name] - value).abs().max() <= 0.51 * step
    assert len(load_mobilenet(tmp_path / "model.json", (2, 3))(torch.rand(1, 3, 32, 32))) == 2


def test_a_model_that_is_not_whole_is_refused(tensors, tmp_path):
    file = write_tfjs(tmp_path, tensors, rest=b"more")
    with pytest.raises(ValueError, match=r"expected \d+ bytes in .*model.bin, got \d+"):
        read_tfjs(file)
    file.with_suffix(".bin").write_bytes(b"few")
    with pytest.raises(ValueError, match="expected a model of TensorFlow.js, .*model.json and its .bin, got none"):
        read_tfjs(file)
    file.write_text("{}")
    with pytest.raises(ValueError, match="expected a model of TensorFlow.js"):
        frozen_features.load_features(str(file), torch.device("cpu"))
