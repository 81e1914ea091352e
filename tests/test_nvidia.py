from __future__ import annotations

import contextlib
import logging
import math
import os
import pickle
import sys
import types
from collections import OrderedDict

import numpy as np
import pytest
import torch
from torch import nn

from ganinv.priors.loading import load_generator
from ganinv.priors.nvidia import load_checkpoint
from tests.stylegan2_reference import FIR, complete_an_attack, dense, lrelu, modulated, normalised, upsampled

# ---- files as NVIDIA's trainer writes them, without its code


class EasyDict(dict):
    """What the trainer keeps its options in."""


class Persisted:
    """A module whose pickle carries source and state, and that asks to execute the source when it is loaded."""

    def __init__(self, class_name: str, state: dict, source: str):
        self.class_name, self.state, self.source = class_name, state, source

    def __reduce__(self):
        meta = {"type": "class", "version": 6, "module_src": self.source, "class_name": self.class_name, "state": self.state}
        return sys.modules["torch_utils.persistence"]._reconstruct_persistent_obj, (meta,), None


def _reconstruct_persistent_obj(meta):
    exec(meta["module_src"])  # as the original does


_reconstruct_persistent_obj.__module__ = "torch_utils.persistence"
EasyDict.__module__ = "dnnlib.util"


@pytest.fixture(autouse=True)
def nvidia_modules(monkeypatch):
    """Modules of the original's names, so that pickles ask for them."""
    for name, content in (("torch_utils.persistence", _reconstruct_persistent_obj), ("dnnlib.util", EasyDict)):
        module = types.ModuleType(name)
        setattr(module, content.__name__, content)
        monkeypatch.setitem(sys.modules, name.partition(".")[0], types.ModuleType(name.partition(".")[0]))
        monkeypatch.setitem(sys.modules, name, module)


def module(class_name: str, inner=None, parameters=None, buffers=None, *, source="", **attributes) -> Persisted:
    """Returns what stands for an nn.Module: its __dict__ and its class's source."""
    state = {
        "training": False,
        "_parameters": OrderedDict((name, value if value is None else nn.Parameter(value, requires_grad=False))
                                   for name, value in (parameters or {}).items()),
        "_buffers": OrderedDict(buffers or {}),
        "_non_persistent_buffers_set": set(),
        "_forward_hooks": OrderedDict(),
        "_modules": OrderedDict(inner or {}),
        "_init_args": (),
        "_init_kwargs": EasyDict(epsilon=np.float64(1e-8)),
        **attributes,
    }  # fmt: skip
    return Persisted(class_name, state, source)


def make_network(
    *, kind="skip", channels=(6, 5), z_dim=8, w_dim=7, hidden=9, depth=3, image_channels=3, labels=0, limit=None, noise=True,
    lr_mlp=0.01, mean=True, source="",
) -> Persisted:  # fmt: skip
    """Returns a generator with random weights, none at its trivial value."""
    draw = torch.Generator().manual_seed(0)

    def randn(*shape):
        return torch.randn(shape, generator=draw)

    def layer(outputs, inputs, lr=1.0, **attributes):
        tensors = {"weight": randn(outputs, inputs) / lr, "bias": randn(outputs)}
        gains = {"weight_gain": lr / np.sqrt(inputs), "bias_gain": lr}
        return module("FullyConnectedLayer", None, tensors, activation="lrelu", source=source, **gains, **attributes)

    def conv(outputs, inputs, side):
        tensors = {"weight": randn(outputs, inputs, 3, 3), "bias": randn(outputs)}
        buffers = {"resample_filter": FIR.clone()}
        if noise:
            tensors["noise_strength"], buffers["noise_const"] = randn(), randn(side, side)
        inner = {"affine": layer(inputs, w_dim)}
        return module(
            "SynthesisLayer", inner, tensors, buffers, conv_clamp=limit, act_gain=np.sqrt(2), activation="lrelu",
            use_noise=noise, source=source,
        )  # fmt: skip

    blocks = {}
    for index, outputs in enumerate(channels):
        side, inner, tensors = 4 * 2**index, {}, {}
        if index == 0:
            tensors["const"] = randn(outputs, 4, 4)
        else:
            inner["conv0"] = conv(outputs, channels[index - 1], side)
        inner["conv1"] = conv(outputs, outputs, side)
        if kind == "skip" or index == len(channels) - 1:
            own = {"weight": randn(image_channels, outputs, 1, 1), "bias": randn(image_channels)}
            inner["torgb"] = module("ToRGBLayer", {"affine": layer(outputs, w_dim)}, own, conv_clamp=limit)
        if index and kind == "resnet":
            own = {"weight": randn(outputs, channels[index - 1], 1, 1), "bias": None}
            inner["skip"] = module("Conv2dLayer", None, own, {"resample_filter": FIR.clone()})
        blocks[f"b{side}"] = module("SynthesisBlock", inner, tensors, {"resample_filter": FIR.clone()}, architecture=kind)
    embed = 4 if labels else 0
    widths = [z_dim + embed, *[hidden] * (depth - 1), w_dim]
    layers = {f"fc{index}": layer(widths[index + 1], widths[index], lr_mlp) for index in range(depth)}
    if labels:
        layers["embed"] = layer(embed, labels)
    mapping = module("MappingNetwork", layers, buffers={"w_avg": randn(w_dim)} if mean else {})
    return module("Generator", {"synthesis": module("SynthesisNetwork", blocks), "mapping": mapping}, source=source)


def write(path, network, protocol=4, **others):
    """Writes a snapshot: the trained networks, the averaged one, options and augmentation."""
    snapshot = {
        "training_set_kwargs": EasyDict(class_name="training.dataset.ImageFolderDataset", max_size=np.int64(9)),
        "D": module("Discriminator", buffers={"resample_filter": FIR.clone()}),
        "augment_pipe": module("AugmentPipe", probabilities=np.arange(3.0)),
        "G_ema": network,
        **others,
    }
    path.write_bytes(pickle.dumps(snapshot, protocol=protocol))
    return path


# ---- the reference


def child(stub: Persisted, name: str) -> Persisted | None:
    return stub.state["_modules"].get(name)


def tensor(stub: Persisted, name: str) -> torch.Tensor:
    return stub.state["_parameters"][name].detach()


def affine(stub: Persisted, w: torch.Tensor) -> torch.Tensor:
    return dense(w, tensor(child(stub, "affine"), "weight"), tensor(child(stub, "affine"), "bias"))


def reference_layer(stub, x, w, *, up=False, gain=1.0):
    y = modulated(x, tensor(stub, "weight"), affine(stub, w), up=up)
    if "noise_strength" in stub.state["_parameters"]:
        y = y + tensor(stub, "noise_strength") * stub.state["_buffers"]["noise_const"]
    y = lrelu(y + tensor(stub, "bias")[:, None, None]) * gain
    limit = stub.state["conv_clamp"]
    return y if limit is None else y.clamp(-limit * gain, limit * gain)


def reference_picture(network: Persisted, w: torch.Tensor, kind: str) -> torch.Tensor:
    """Returns the picture [C,R,R] of w [num_ws,w_dim]: block by block as Karras et al. 2020, figures 2 and 7, say."""
    picture, at, half = None, 0, math.sqrt(0.5)
    for name, block in child(network, "synthesis").state["_modules"].items():
        if name == "b4":
            x = reference_layer(child(block, "conv1"), tensor(block, "const"), w[at])
            at += 1
        else:
            y = reference_layer(child(block, "conv0"), x, w[at], up=True)
            y = reference_layer(child(block, "conv1"), y, w[at + 1], gain=half if kind == "resnet" else 1.0)
            if kind == "resnet":
                weight = tensor(child(block, "skip"), "weight")[:, :, 0, 0] / math.sqrt(len(x))
                y = y + half * upsampled(torch.einsum("fc,chw->fhw", weight, x))
            x, at = y, at + 2
        if picture is not None:
            picture = upsampled(picture)
        if torgb := child(block, "torgb"):
            own = modulated(x, tensor(torgb, "weight"), affine(torgb, w[at]) / math.sqrt(len(x)), demodulate=False)
            own = own + tensor(torgb, "bias")[:, None, None]
            if (limit := torgb.state["conv_clamp"]) is not None:
                own = own.clamp(-limit, limit)
            picture = own if picture is None else picture + own
    return picture


def reference_w(network: Persisted, z: torch.Tensor, lr_mlp: float, label: int | None = None) -> torch.Tensor:
    """Returns w [w_dim] of z [z_dim]."""
    mapping, x = child(network, "mapping"), normalised(z)
    if label is not None:
        embed = child(mapping, "embed")
        count = tensor(embed, "weight").shape[1]
        y = dense(torch.eye(count)[label], tensor(embed, "weight"), tensor(embed, "bias"))
        x = torch.cat([x, normalised(y)])
    for name, layer in mapping.state["_modules"].items():
        if name != "embed":
            x = lrelu(dense(x, tensor(layer, "weight"), tensor(layer, "bias"), lr_mlp))
    return x


# ---- tests


CASES = {
    "skip": {},
    "resnet": {"kind": "resnet", "channels": (6, 5, 4)},
    "orig": {"kind": "orig", "channels": (6, 5, 4)},
    "clamped": {"limit": 0.5},
    "resnet clamped": {"kind": "resnet", "limit": 0.5},
    "no noise": {"noise": False},
    "grey": {"image_channels": 1},
    "one layer": {"depth": 1, "lr_mlp": 0.1, "channels": (3,)},
}


@pytest.mark.parametrize("name", CASES)
@torch.no_grad()
def test_a_network_pickle_gives_the_pictures_of_the_plain_reference(name, tmp_path):
    options = CASES[name]
    network = make_network(**options)
    prior = load_generator(str(write(tmp_path / "ffhq.pkl", network)), "cpu")
    assert (prior.z_dim, prior.w_dim) == (8, 7)
    assert prior.num_ws == 2 * math.log2(prior.resolution) - 2
    w = torch.randn(2, prior.num_ws, prior.w_dim)
    expected = torch.stack([reference_picture(network, one, options.get("kind", "skip")) for one in w])
    images = prior.synthesize(w)
    assert images.shape == (2, 3, prior.resolution, prior.resolution)
    torch.testing.assert_close(images, expected.expand(-1, 3, -1, -1), atol=1e-4, rtol=1e-4)
    z = torch.randn(2, 8)
    expected = torch.stack([reference_w(network, one, options.get("lr_mlp", 0.01)) for one in z])
    torch.testing.assert_close(prior.map(z), expected[:, None].expand(-1, prior.num_ws, -1), atol=1e-5, rtol=1e-4)
    mean = child(network, "mapping").state["_buffers"]["w_avg"]
    torch.testing.assert_close(prior.map(z, 0.25)[:, 0], mean + 0.25 * (expected - mean), atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_a_conditional_prior_takes_one_class_and_says_so(tmp_path, caplog):
    network = make_network(labels=3)
    path, z = write(tmp_path / "cifar.pkl", network), torch.randn(2, 8)
    with caplog.at_level(logging.WARNING):
        prior = load_generator(str(path), "cpu")
    assert [record.getMessage() for record in caplog.records] == [f"{path} has 3 classes: only class 0 is used"]
    for label, own in ((0, prior), (2, load_checkpoint(path, label=2))):
        expected = torch.stack([reference_w(network, one, 0.01, label) for one in z])
        torch.testing.assert_close(own.map(z)[:, 0], expected, atol=1e-5, rtol=1e-4)
    with pytest.raises(ValueError, match="label from 0 to 2 .* got 3"):
        load_checkpoint(path, label=3)


@torch.no_grad()
def test_without_a_kept_mean_it_is_that_of_many_latents(tmp_path):
    prior = load_checkpoint(write(tmp_path / "a.pkl", make_network(mean=False)))
    w = prior.map(torch.randn(40_000, 8))[:, 0]
    assert (prior.map(torch.zeros(1, 8), psi=0.0)[0, 0] - w.mean(0)).norm() < 0.05 * w.std(0).norm()


@pytest.mark.parametrize("protocol", [3, 4, 5])
def test_the_source_in_the_file_is_not_executed(protocol, tmp_path):
    made = tmp_path / "made"
    path = write(tmp_path / "a.pkl", make_network(source=f"import os; os.mkdir({str(made)!r})"), protocol)
    load_checkpoint(path)
    assert not made.exists()
    with pytest.raises(FileExistsError):  # where it is let loose, it works, once for each module
        pickle.loads(path.read_bytes())
    assert made.exists()


def test_the_prior_is_frozen_float32_and_deterministic(tmp_path):
    path = write(tmp_path / "a.pkl", make_network())
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    prior = load_checkpoint(path)
    assert torch.equal(torch.rand(3), expected)
    assert not prior.training and all(p.dtype == torch.float32 and not p.requires_grad for p in prior.parameters())
    w = torch.randn(3, prior.num_ws, prior.w_dim, requires_grad=True)
    assert torch.equal(prior.synthesize(w), prior.synthesize(w))
    torch.testing.assert_close(prior.synthesize(w)[1:2], prior.synthesize(w[1:2]), atol=1e-5, rtol=1e-5)
    prior.synthesize(w)[1].sum().backward()
    assert w.grad[1].abs().min() > 0 and w.grad[[0, 2]].abs().max() == 0
    with pytest.raises(ValueError, match=r"expected w of shape \[N,4,7\], got \[2, 7\]"):
        prior.synthesize(torch.zeros(2, 7))


def test_an_attack_completes(tmp_path):
    complete_an_attack(load_generator(str(write(tmp_path / "ffhq.pkl", make_network(limit=0.3))), "cpu"))


def edit(network: Persisted, dotted: str, value) -> Persisted:
    """Returns the network after setting a parameter, a buffer or an attribute by its dotted name; None removes it."""
    *modules, name = dotted.split(".")
    state = network.state
    for inner in modules:
        state = state["_modules"][inner].state
    kind = next((state[kind] for kind in ("_parameters", "_buffers", "_modules") if name in state[kind]), state)
    if value is None:
        kind.pop(name)
    else:
        kind[name] = value
    return network


@pytest.mark.parametrize(
    "dotted, value, match",
    [
        ("synthesis.b8.conv1.weight", torch.full((5, 5, 3, 3), torch.nan), r"NaN or infinity in synthesis\.b8\.conv1"),
        ("synthesis.b8.conv0.weight", torch.zeros(5, 6, 1, 1), r"conv0\.weight of shape \[5, 6, 3, 3\], got \[5, 6, 1, 1\]"),
        ("synthesis.b8.conv0.affine.bias", None, r"the tensor\(s\) synthesis\.b8\.conv0\.affine\.bias"),
        ("synthesis.b8.conv1.weight", torch.zeros(5), r"synthesis\.b8\.conv1\.weight with 4 dimensions"),
        ("synthesis.b4", None, "blocks of .8. px"),
        ("synthesis", None, "got none; StyleGAN2 is read, StyleGAN3"),
        ("mapping.fc1", None, r"layers mapping\.fc0, fc1, .* got \[0, 2\]"),
        ("synthesis.b8.resample_filter", torch.ones(4, 4) / 16, "expected the filter"),
        ("synthesis.b4.conv1.conv_clamp", "x", "positive conv_clamp"),
        ("synthesis.b4.conv1.conv_clamp", math.nan, "positive conv_clamp"),
        ("synthesis.b4.conv1.activation", "relu", "activation lrelu .*got 'relu'"),
        ("mapping.fc0.bias_gain", -1.0, "positive bias_gain"),
        ("mapping.w_avg", torch.zeros(3), r"mapping\.w_avg of shape \[7\]"),
    ],
)  # fmt: skip
def test_a_wrong_network_is_refused_by_name(dotted, value, match, tmp_path):
    path = write(tmp_path / "a.pkl", edit(make_network(), dotted, value))
    with pytest.raises(ValueError, match=match) as caught:
        load_checkpoint(path)
    assert "\n" not in str(caught.value) and "a.pkl" in str(caught.value)


def test_other_pickles_are_refused(tmp_path):
    path = tmp_path / "a.pkl"
    for content, match in (({"G": 1}, "network G_ema .*'G'"), ([1], "network G_ema .*got a list"), ({"G_ema": 3}, "G_ema")):
        path.write_bytes(pickle.dumps(content))
        with pytest.raises(ValueError, match=match):
            load_checkpoint(path)
    write(path, make_network())
    whole = path.read_bytes()
    for data in (whole[: len(whole) // 2], b"", b"hello", b"\x80", whole[:-1]):
        path.write_bytes(data)
        with pytest.raises(ValueError, match="expected a whole pickle, got .*a.pkl"):
            load_checkpoint(path)
    with pytest.raises(ValueError, match="which is missing"):
        load_checkpoint(tmp_path / "none.pkl")
    module = types.ModuleType("dnnlib.tflib.network")
    module.Network = type("Network", (), {"__module__": module.__name__})
    sys.modules[module.__name__] = sys.modules["dnnlib.tflib"] = module
    try:
        path.write_bytes(pickle.dumps((module.Network(),)))
    finally:
        del sys.modules[module.__name__], sys.modules["dnnlib.tflib"]
    with pytest.raises(ValueError, match=r"asks for dnnlib\.tflib\.network\.Network .*convert it"):
        load_checkpoint(path)


class Call:
    """Its pickle calls a function."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("place", ["state", "storage"])
def test_code_beside_the_tensors_is_not_run(place, tmp_path):
    made, path = tmp_path / "made", tmp_path / "a.pkl"
    hostile = Call(os.mkdir, str(made))
    if place == "storage":  # a pickle within the pickle
        hostile = Call(torch.storage._load_from_bytes, pickle.dumps(hostile, protocol=2))
    write(path, edit(make_network(), "synthesis.b4.extra", hostile))
    with pytest.raises(ValueError, match=r"asks for \w+\.mkdir in .*a.pkl; it was not run") as caught:
        load_checkpoint(path)
    assert not made.exists() and "\n" not in str(caught.value)
    with contextlib.suppress(Exception):  # whatever torch makes of a storage that is none
        pickle.loads(pickle.dumps(hostile))
    assert made.exists()  # it works where it is let loose
