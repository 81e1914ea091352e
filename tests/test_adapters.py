"""Recognizers that were made elsewhere: each kind loads from a file that is written here, and is attacked for two steps."""

from __future__ import annotations

import dataclasses
import json
import logging
import os
import pickle
import warnings
import zipfile
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from ganinv.attack.config import AttackConfig
from ganinv.attack.invert import invert
from ganinv.interfaces import Recognition
from ganinv.recognizers import classifiers
from ganinv.recognizers.adapters import weight_file
from ganinv.recognizers.checks import check_recognizer
from ganinv.recognizers.loading import load_recognizer
from ganinv.recognizers.preprocessing import IMAGENET, Preprocessing, draw_faces, probe_preprocessing, read_file_card
from ganinv.worlds.world import PRETRAINED

SIDE = 32
SMALL = {"preprocessing": {"size": SIDE}}
CONFIG = AttackConfig(space="pixels", steps=2, restarts=1, final_transforms=1, objective="cross_entropy")


class Net(nn.Module):
    """A small classifier with all that a face recognizer has; with `both`, it gives embeddings as well."""

    def __init__(self, both: bool = False):
        super().__init__()
        torch.manual_seed(0)
        self.stem = nn.Sequential(
            nn.Conv2d(3, 6, 3, 2), nn.BatchNorm2d(6), nn.PReLU(6), nn.AdaptiveAvgPool2d(2), nn.Flatten()
        )
        self.head, self.both = nn.Linear(24, 5), both

    def forward(self, x):
        features = self.stem(x)
        return (features, self.head(features)) if self.both else self.head(features)


@pytest.fixture(scope="module")
def net() -> Net:
    return warm(Net())


def warm(net: nn.Module, side: int = SIDE) -> nn.Module:
    """Returns a network in eval mode whose running statistics are those of drawn faces."""
    for layer in net.modules():
        if isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d):
            layer.momentum = None  # the plain mean, of one batch
    with torch.no_grad():
        net.train()(draw_faces(4, side))
    return net.eval()


def write_card(path, card: dict) -> None:
    path.with_suffix(".json").write_text(json.dumps(card))


def attack(recognizer, side: int = SIDE) -> None:
    """Two steps from grey; the picture must have moved, and the recognizer's weights must not."""
    check_recognizer(recognizer, side)
    assert not recognizer.training and not any(parameter.requires_grad for parameter in recognizer.parameters())
    before = [parameter.clone() for parameter in recognizer.parameters()]
    start = torch.zeros(2, 3, side, side)
    result = invert(None, recognizer, (0, 3), CONFIG, start=start)
    assert result.images.shape == (2, 1, 3, side, side) and (result.images[0] - result.images[1]).abs().max() > 0
    assert all(torch.equal(old, new) for old, new in zip(before, recognizer.parameters(), strict=True))


# ---- state dicts


@pytest.fixture(scope="module")
def squeezenet():
    import torchvision

    torch.manual_seed(0)
    model = torchvision.models.squeezenet1_1(num_classes=5)
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):  # it starts without, and would say nothing of a mid-grey picture
            nn.init.normal_(parameter, std=0.1)
    return model.eval()


@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: state,
        lambda state: {"state_dict": {f"module.{name}": value for name, value in state.items()}, "epoch": 3},
        lambda state: {"model": state, "optimizer": {"state": {0: {"exp_avg": torch.zeros(3)}}}},
    ],
)
def test_a_torchvision_state_dict_is_a_recognizer(wrap, squeezenet, tmp_path):
    path = tmp_path / "weights.pt"
    torch.save(wrap(squeezenet.state_dict()), path)
    write_card(path, SMALL)
    before = torch.random.get_rng_state()
    recognizer = load_recognizer(f"torchvision:squeezenet1_1:{path}", "cpu")
    assert torch.equal(torch.random.get_rng_state(), before)
    assert recognizer.num_identities == 5 and recognizer.embedding_dim == 512
    images = draw_faces(2, 48)
    x = dataclasses.replace(IMAGENET, size=SIDE)(images)
    with torch.no_grad():
        found = recognizer(images)
        torch.testing.assert_close(found.logits, squeezenet(x))
        features = squeezenet.features(x).mean((2, 3))
    torch.testing.assert_close(found.embeddings, F.normalize(features, dim=1))


def test_a_torchvision_recognizer_is_attacked(squeezenet, tmp_path):
    torch.save(squeezenet.state_dict(), tmp_path / "a.pth")
    write_card(tmp_path / "a.pth", SMALL)
    attack(load_recognizer(f"torchvision:squeezenet1_1:{tmp_path}/a.pth", "cpu", resolution=SIDE))


def test_a_timm_recognizer_is_attacked(tmp_path):
    timm = pytest.importorskip("timm")
    from safetensors.torch import save_file

    model = timm.create_model("resnet10t", num_classes=5).eval()
    save_file(model.state_dict(), tmp_path / "a.safetensors")
    write_card(tmp_path / "a.safetensors", {"preprocessing": {"size": 64}})
    recognizer = load_recognizer(f"timm:resnet10t:{tmp_path}/a.safetensors", "cpu", resolution=SIDE)
    assert recognizer.preprocessing.std == timm.get_pretrained_cfg("resnet10t").std
    images = draw_faces(2, SIDE)
    with torch.no_grad():
        torch.testing.assert_close(recognizer(images).logits, model(recognizer.preprocessing(images)))
    attack(recognizer)


@pytest.mark.parametrize(
    "spec, match",
    [
        ("torchvision:resnet18", "torchvision:NAME:FILE"),
        ("torchvision:resnet:{good}", "torchvision classifier such as resnet18, got resnet"),
        ("torchvision:squeezenet1_1:{folder}/none.pt", "which is missing"),
        ("torchvision:resnet18:{good}", r"the last layer fc.weight in .*good.pt"),
        ("torchvision:squeezenet1_0:{good}", r"expected .*features.*good.pt"),
        ("torchvision:squeezenet1_1:{cut}", "whole torch checkpoint"),
        ("timm:nothing:{good}", "timm classifier .*got nothing"),
        ("facenet:celebrities", "facenet:vggface2, facenet:casia-webface or facenet:FILE"),
        ("facenet:", "facenet:FILE"),
        ("facenet:{good}", "InceptionResnetV1|expected the tensor"),
        ("torchscript:{good}", "TorchScript archive"),
        ("{folder}/none.onnx", "which is missing"),
        ("{good}", "got the file alone; name the network, such as torchvision:resnet18:.*good.pt"),
    ],
)
def test_mistakes_are_named_in_one_line(spec, match, squeezenet, tmp_path):
    good, cut = tmp_path / "good.pt", tmp_path / "cut.pt"
    torch.save(squeezenet.state_dict(), good)
    cut.write_bytes(good.read_bytes()[:1000])
    if spec.startswith("timm"):
        pytest.importorskip("timm")
    with pytest.raises(ValueError, match=match) as caught:
        load_recognizer(spec.format(folder=tmp_path, good=good, cut=cut), "cpu")
    assert "\n" not in str(caught.value)


class Payload:
    """Its pickle makes a folder, as a hostile one would run a command."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("spec", ["torchvision:squeezenet1_1:{}", "timm:resnet10t:{}", "facenet:{}", "torchscript:{}"])
def test_a_pickle_with_code_is_not_run(spec, tmp_path):
    if spec.startswith("timm"):
        pytest.importorskip("timm")
    made, path = tmp_path / "made", tmp_path / "weights.pt"
    torch.save({"state_dict": {"classifier.1.weight": torch.zeros(5, 4)}, "args": Payload(made)}, path)
    with pytest.raises(ValueError, match="was not run|TorchScript archive"):
        load_recognizer(spec.format(path), "cpu")
    assert not made.exists()


@pytest.mark.parametrize(
    "package, spec", [("timm", "timm:resnet10t:a.pt"), ("onnx2torch", "a.onnx"), ("facenet_pytorch", "facenet:vggface2")]
)
def test_a_missing_package_is_named(package, spec, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.onnx").write_bytes(b"")
    monkeypatch.setitem(__import__("sys").modules, package, None)
    with pytest.raises(ValueError, match=r"expected .* got none .*pip install"):
        load_recognizer(spec, "cpu")


# ---- facenet-pytorch


@pytest.fixture(scope="module")
def torch_home(tmp_path_factory):
    """A folder as facenet-pytorch keeps it, with random weights of the published names and shapes."""
    from facenet_pytorch import InceptionResnetV1

    home = tmp_path_factory.mktemp("torch-home")
    (home / "checkpoints").mkdir()
    torch.manual_seed(0)
    network = warm(InceptionResnetV1(classify=True, num_classes=10575), 96)
    torch.save(network.state_dict(), home / "checkpoints" / "20180408-102900-casia-webface.pt")
    return home


def test_facenet_is_attacked(torch_home, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(torch_home))
    recognizer = load_recognizer("facenet:casia-webface", "cpu")
    assert recognizer.num_identities == 10575 and recognizer.embedding_dim == 512
    x = recognizer.preprocessing(torch.tensor([-1.0, 1.0]).view(2, 1, 1, 1).expand(2, 3, 64, 64))
    assert x.shape == (2, 3, 160, 160) and x[0].unique().item() == -127.5 / 128 and x[1].unique().item() == 127.5 / 128
    with torch.no_grad():
        found = recognizer(draw_faces(1, 64))
        recognizer.network.classify = False
        torch.testing.assert_close(found.embeddings, recognizer.network(recognizer.preprocessing(draw_faces(1, 64))))
        recognizer.network.classify = True
    attack(recognizer)


def test_facenet_that_was_trained_further_or_only_embeds(torch_home, tmp_path):
    state = torch.load(torch_home / "checkpoints" / "20180408-102900-casia-webface.pt", weights_only=True)
    state = {name: value for name, value in state.items() if not name.endswith("num_batches_tracked")}  # as older files
    torch.save(
        {"state_dict": {**state, "logits.weight": torch.ones(3, 512), "logits.bias": torch.zeros(3)}}, tmp_path / "a.pt"
    )
    assert classifiers.load_facenet(str(tmp_path / "a.pt")).num_identities == 3
    torch.save({name: value for name, value in state.items() if not name.startswith("logits")}, tmp_path / "b.pt")
    recognizer = classifiers.load_facenet(str(tmp_path / "b.pt")).eval()
    with torch.no_grad():
        found = recognizer(draw_faces(1, 64))
    assert recognizer.num_identities is None and found.logits is None and found.embeddings.shape == (1, 512)


def test_a_missing_or_other_published_file_is_named(torch_home, tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with pytest.raises(
        ValueError, match=r"20180402-114759-vggface2.pt \(about 107 MiB\) in .*checkpoints, got none; nothing"
    ):
        load_recognizer("facenet:vggface2", "cpu")
    (tmp_path / "checkpoints").mkdir()
    for name, match in (("vggface2", "expected SHA-256 281cebca8662"), ("casia-webface", "10575 identities .* got None")):
        torch.save({"a": torch.zeros(1)}, tmp_path / "checkpoints" / classifiers.PUBLISHED[name].file)
        with pytest.raises(ValueError, match=match):
            load_recognizer(f"facenet:{name}", "cpu")


def test_the_file_behind_a_spec_is_known(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    found = [
        weight_file(spec) for spec in ("facenet:casia-webface", "facenet:a.pt", "timm:resnet10t:a.pt", "torchscript:b.pt")
    ]
    published = tmp_path / "checkpoints" / "20180408-102900-casia-webface.pt"
    assert found == [published, Path("a.pt"), Path("a.pt"), Path("b.pt")]
    assert weight_file("a.pt2") == Path("a.pt2") and weight_file("mine.py:build") == Path("mine.py:build")


# ---- exported programs


def export(net: nn.Module, path, kind: str) -> None:
    x = torch.zeros(3, 3, SIDE, SIDE)
    if kind == "torchscript":
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that torch.export is newer
            torch.jit.script(net).save(str(path)) if not isinstance(net, Net) else torch.jit.trace(net, x).save(str(path))
    elif kind == "onnx":
        write_onnx(net, path)
    else:
        shapes = ({0: torch.export.Dim("n", min=2, max=4)},) if kind == "dynamic" else None
        torch.export.save(torch.export.export(net, (x,), dynamic_shapes=shapes), path)


def write_onnx(net: Net, path, batch: int | str = "n", opset: int = 18) -> None:
    """Writes the network as torch.onnx does today: a Reshape with allowzero=1, ReduceMean's axes an input."""
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnx2torch")
    from onnx import TensorProto, helper, numpy_helper

    weights = {name: value.detach().numpy() for name, value in net.state_dict().items() if value.ndim}
    weights["stem.2.weight"] = weights["stem.2.weight"].reshape(6, 1, 1)
    weights |= {"axes": torch.tensor([2, 3]).numpy(), "flat": torch.tensor([-1, 6]).numpy()}
    norm = [f"stem.1.{name}" for name in ("weight", "bias", "running_mean", "running_var")]
    nodes = [
        helper.make_node("Conv", ["x", "stem.0.weight", "stem.0.bias"], ["a"], strides=[2, 2]),
        helper.make_node("BatchNormalization", ["a", *norm], ["b"]),
        helper.make_node("PRelu", ["b", "stem.2.weight"], ["c"]),
        helper.make_node("ReduceMean", ["c", "axes"], ["d"], keepdims=1),
        helper.make_node("Reshape", ["d", "flat"], ["e"], allowzero=1),
        helper.make_node("Gemm", ["e", "small", "head.bias"], ["y"], transB=1),
    ]
    weights["small"] = weights.pop("head.weight")[:, :6].copy()
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [batch, 3, SIDE, SIDE])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [batch, 5])],
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8), str(path))


def answer_by_hand(net: Net, kind: str, x: torch.Tensor) -> torch.Tensor:
    if kind != "onnx":
        return net(x)
    return F.linear(net.stem[:3](x).mean((2, 3)), net.head.weight[:, :6], net.head.bias)


@pytest.mark.parametrize(
    "kind, name",
    [("torchscript", "a.torchscript"), ("torchscript", "a.pt"), ("fixed", "a.pt2"), ("dynamic", "a.pt2"), ("onnx", "a.onnx")],
)
def test_an_exported_program_is_attacked(kind, name, net, tmp_path):
    path = tmp_path / name
    export(net, path, kind)
    write_card(
        path, {"preprocessing": {"size": SIDE, "range": [0, 255], "mean": [127.5] * 3, "std": [128] * 3, "channels": "BGR"}}
    )
    recognizer = load_recognizer(f"torchscript:{path}" if name == "a.pt" else str(path), "cpu", resolution=SIDE)
    images = draw_faces(7, SIDE)
    x = images.flip(1) * (127.5 / 128)
    with torch.no_grad():
        for count in (1, 2, 3, 7):  # batches that the program takes, and batches that it does not
            expected = answer_by_hand(net, kind, x[:count])
            torch.testing.assert_close(recognizer(images[:count]).logits, expected, atol=1e-4, rtol=1e-4)
    x.requires_grad_()
    (ours,) = torch.autograd.grad(recognizer(x).logits[:, 1].sum(), x)
    (exact,) = torch.autograd.grad(answer_by_hand(net, kind, x.flip(1) * (127.5 / 128))[:, 1].sum(), x)
    torch.testing.assert_close(ours, exact, atol=1e-6, rtol=1e-3)
    attack(recognizer)


@pytest.mark.parametrize("kind", ["torchscript", "fixed"])
def test_a_program_may_give_embeddings_too_or_nothing_else(kind, tmp_path):
    path = tmp_path / ("a.pt2" if kind == "fixed" else "a.torchscript")
    both = warm(Net(both=True))
    export(both, path, kind)
    recognizer = load_recognizer(str(path), "cpu", resolution=SIDE)
    images = draw_faces(3, SIDE)
    with torch.no_grad():
        torch.testing.assert_close(recognizer(images).embeddings, F.normalize(both(images)[0], dim=1))
    assert (recognizer.num_identities, recognizer.embedding_dim) == (5, 24)
    write_card(path, {"output": "embeddings"})
    recognizer = load_recognizer(str(path), "cpu", resolution=SIDE)
    assert recognizer.num_identities is None and recognizer(images).logits is None
    check_recognizer(recognizer, SIDE)


class Step(Net):
    def forward(self, x):
        return (self.stem(x) > 0).float()


class Mixing(Net):
    def forward(self, x):
        return self.head(self.stem(x - x.mean(0, keepdim=True)))


@pytest.mark.parametrize("kind, match", [(Step, "no gradient"), (Mixing, "the same .* in any batch")])
def test_a_program_that_cannot_be_attacked_is_refused(kind, match, tmp_path):
    export(warm(kind()), tmp_path / "a.torchscript", "torchscript")
    with pytest.raises(ValueError, match=match):
        load_recognizer(str(tmp_path / "a.torchscript"), "cpu", resolution=SIDE)


def test_a_program_that_is_fed_another_shape_names_its_card(net, tmp_path):
    export(net, tmp_path / "a.torchscript", "torchscript")
    write_card(tmp_path / "a.torchscript", {"preprocessing": {"channels": "L"}})
    with pytest.raises(ValueError, match=r"input \[2, 1, 32, 32\], got .*; say its size, channels and .* a.json") as caught:
        load_recognizer(str(tmp_path / "a.torchscript"), "cpu", resolution=SIDE)
    assert "\n" not in str(caught.value)


def test_a_program_is_announced_as_code_and_an_onnx_file_is_not(net, tmp_path, caplog):
    for kind, name, announced in (("torchscript", "a.torchscript", True), ("onnx", "a.onnx", False)):
        caplog.clear()
        export(net, tmp_path / name, kind)
        load_recognizer(str(tmp_path / name), "cpu", resolution=SIDE)
        assert ("runs what its author wrote" in caplog.text) is announced
        assert f"{name} has no card a.json: it is fed" in caplog.text


@pytest.mark.parametrize("where", ["sample_inputs", "weights"])
def test_a_pickle_in_a_torch_export_archive_is_not_run(where, net, tmp_path):
    good, bad, made = tmp_path / "good.pt2", tmp_path / "bad.pt2", tmp_path / "made"
    export(net, good, "fixed")
    with zipfile.ZipFile(good) as source, zipfile.ZipFile(bad, "w") as target:
        for name in source.namelist():
            data = source.read(name)
            if where == "sample_inputs" and "data/sample_inputs/" in name:
                data = pickle.dumps(Payload(made))
            elif where == "weights" and name.endswith("weights_config.json"):
                config = json.loads(data)
                config["config"]["head.bias"]["use_pickle"] = True
                data = json.dumps(config).encode()
            elif where == "weights" and name.endswith("weights/weight_0"):
                data = pickle.dumps(Payload(made))
            target.writestr(name, data)
    with pytest.raises(ValueError, match="no pickled objects in .*bad.pt2, got .*; it was not run"):
        load_recognizer(str(bad), "cpu", resolution=SIDE)
    assert not made.exists()


@pytest.mark.parametrize("name", ["a.pt2", "a.onnx", "a.torchscript"])
def test_a_broken_program_is_named(name, tmp_path):
    if name == "a.onnx":
        pytest.importorskip("onnx2torch")
    (tmp_path / name).write_bytes(b"no program")
    with pytest.raises(ValueError, match=f"expected a.* got .*{name}, which cannot be read") as caught:
        load_recognizer(str(tmp_path / name), "cpu")
    assert "\n" not in str(caught.value)


def test_an_onnx_file_of_a_fixed_batch_and_an_unknown_operator(net, tmp_path):
    write_onnx(net, tmp_path / "a.onnx", batch=2)
    recognizer = load_recognizer(str(tmp_path / "a.onnx"), "cpu", resolution=SIDE)
    assert (recognizer.recognize.least, recognizer.recognize.most) == (2, 2)
    assert recognizer(draw_faces(3, SIDE)).logits.shape == (3, 5)
    import onnx

    model = onnx.load(str(tmp_path / "a.onnx"))
    model.graph.node[2].CopyFrom(onnx.helper.make_node("Det", ["b"], ["c"]))
    onnx.save(model, str(tmp_path / "b.onnx"))
    with pytest.raises(ValueError, match="operators that onnx2torch knows, got others in .*b.onnx"):
        load_recognizer(str(tmp_path / "b.onnx"), "cpu", resolution=SIDE)


# ---- preprocessing


def test_preprocessing_by_hand():
    image = torch.tensor([-1.0, 0.0, 1.0]).view(1, 3, 1, 1)  # red none, green half, blue full
    torch.testing.assert_close(Preprocessing()(image), image)
    caffe = Preprocessing(range=(0, 255), mean=(90.0, 100.0, 130.0), channels="BGR")
    assert caffe(image).flatten().tolist() == [165.0, 27.5, -130.0]
    torch.testing.assert_close(Preprocessing(channels="L", range=(0, 1))(image).flatten(), torch.tensor([0.587 / 2 + 0.114]))
    torch.testing.assert_close(IMAGENET(image)[0, 2, 0, 0], torch.tensor((1 - 0.406) / 0.225))
    assert Preprocessing(size=(4, 6))(image).shape == (1, 3, 4, 6)


@pytest.mark.parametrize(
    "card, match",
    [
        ({"preprocessing": {"channels": "HSV"}}, "channels among RGB, BGR, L"),
        ({"preprocessing": {"mean": [0.5]}}, "mean of 3 numbers"),
        ({"preprocessing": {"std": [0, 1, 1]}}, "std above 0"),
        ({"preprocessing": {"range": [0, "1"]}}, "range of 2 numbers"),
        ({"preprocessing": {"size": 0}}, "size to be a side"),
        ({"preprocessing": {"scale": 1}}, "preprocessing of size, range, mean, std, channels, layout .*got scale"),
        ({"preprocessing": 3}, "preprocessing"),
        ({"output": "faces"}, "output among logits, probabilities, cosines, distances, embeddings"),
        ({"sha256": "0" * 64}, "SHA-256"),
        ([], "JSON"),
    ],
)
def test_an_odd_card_is_refused(card, match, tmp_path):
    (tmp_path / "a.pt").write_bytes(b"weights")
    write_card(tmp_path / "a.pt", card)
    with pytest.raises(ValueError, match=match) as caught:
        read_file_card(tmp_path / "a.pt", IMAGENET)
    assert "a.json" in str(caught.value) and "\n" not in str(caught.value)


class Sees(nn.Module):
    """Embeds a coarse picture and a bias. It answers to what is about as bright as that which it was trained on, alone."""

    num_identities, embedding_dim = None, 49

    def __init__(self, trained: Preprocessing, fed: Preprocessing):
        super().__init__()
        self.trained, self.fed = trained, fed

    def forward(self, images):
        mean, std = (images.new_tensor(values).view(3, 1, 1) for values in (self.trained.mean, self.trained.std))
        low, high = self.trained.range
        x = (self.fed(images) * std + mean - low) / (high - low) * 2 - 1  # in [-1,1] again, if rightly fed
        seen = F.adaptive_avg_pool2d(x / (1 + x**4), 4).flatten(1)
        return Recognition(F.normalize(torch.cat([seen, seen.new_full((len(x), 1), 0.5)], 1), dim=1), None)


CAFFE = Preprocessing(range=(0, 255), mean=(91.0, 104.0, 131.0), channels="BGR")


@pytest.mark.parametrize("trained", [Preprocessing(), IMAGENET, CAFFE, classifiers.FACENET])
@pytest.mark.parametrize("fed", [Preprocessing(), IMAGENET, CAFFE, classifiers.FACENET])
def test_the_probe_fires_for_a_wrong_range_and_for_no_right_one(trained, fed):
    line = probe_preprocessing(Sees(trained, fed), fed)
    wrong = (trained is CAFFE) != (fed is CAFFE)  # the others are all of a few units, and not to be told apart
    assert (line is not None) is wrong, line
    if wrong:
        assert ("255]" in line or "127]" in line) is (trained is CAFFE) and "\n" not in line


def test_the_probe_on_a_trained_recognizer():
    # one that other ranges confuse: the target of synthetic tells faces apart whatever it is fed
    target = load_recognizer(str(PRETRAINED / "faces" / "cnn.safetensors"), "cpu")

    class Fed(nn.Module):
        def __init__(self, fed):
            super().__init__()
            self.target, self.fed = target, fed

        def forward(self, images):
            return self.target(self.fed(images))

    assert probe_preprocessing(target) is None
    for fed in (Preprocessing(range=(0, 255)), CAFFE):
        assert "when fed values in [-1,1]" in probe_preprocessing(Fed(fed), fed)
    # code, of which nothing is known
    assert "127 times smaller" in probe_preprocessing(Fed(Preprocessing(range=(0, 255))))
    assert "255]" in (line := probe_preprocessing(Fed(lambda images: images / 127.5))) or "127]" in line


def test_a_recognizer_that_knows_no_difference_is_not_accused():
    recognizer = Sees(Preprocessing(), Preprocessing())
    recognizer.forward = lambda images: Recognition(F.normalize(images.new_ones(len(images), 48), dim=1), None)
    assert probe_preprocessing(recognizer) is None


def test_loading_logs_what_the_probe_finds(squeezenet, tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(
        "ganinv.recognizers.preprocessing.probe_preprocessing",
        lambda recognizer, fed, resolution: fed.size == SIDE and "odd range",
    )
    torch.save(squeezenet.state_dict(), tmp_path / "a.pt")
    write_card(tmp_path / "a.pt", SMALL)
    with caplog.at_level(logging.WARNING):
        load_recognizer(f"torchvision:squeezenet1_1:{tmp_path}/a.pt", "cpu")
    assert caplog.messages == [f"torchvision:squeezenet1_1:{tmp_path}/a.pt: odd range"]


@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: {f"_orig_mod.{name}": value for name, value in state.items()},
        lambda state: {"net": {f"module.backbone.{name}": value for name, value in state.items()}, "best": np.float64(0.5)},
        lambda state: {
            "weights": state,
            "out": Path("runs"),
            "log": defaultdict(list, {"loss": [1.0]}),
            "lr": np.arange(3.0),
        },
        lambda state: {**state, "features.0.total_ops": torch.zeros(1), "total_params": torch.zeros(1)},
    ],
)
def test_a_state_dict_is_found_below_whatever_it_is_wrapped_in(wrap, squeezenet, tmp_path):
    torch.save(wrap(squeezenet.state_dict()), tmp_path / "a.pt")
    write_card(tmp_path / "a.pt", SMALL)
    recognizer = load_recognizer(f"torchvision:squeezenet1_1:{tmp_path}/a.pt", "cpu")
    weights = recognizer.network.state_dict()
    assert all(torch.equal(weights[name], value) for name, value in squeezenet.state_dict().items())


def test_card_keys_at_the_top_and_outputs_that_are_no_logits_are_read(net, tmp_path):
    class Sure(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = net

        def forward(self, x):
            return self.net(x).softmax(1)

    x, path = draw_faces(2, SIDE), tmp_path / "a.torchscript"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.trace(Sure().eval(), x).save(str(path))
    write_card(path, {"range": [0, 1], "output": "probabilities"})
    assert read_file_card(path, Preprocessing()).preprocessing.range == (0, 1)
    write_card(path, {"output": "probabilities"})
    found = load_recognizer(str(path), "cpu", resolution=SIDE)(x).logits
    torch.testing.assert_close(found, net(x).log_softmax(1), rtol=1e-3, atol=1e-3)
    for card in ({"output": "cosines", "scale": 0}, {"output": "cosines", "scale": "64"}, {"output": ["logits"]}):
        write_card(path, card)
        with pytest.raises(ValueError, match="expected (a scale above 0|output among)"):
            read_file_card(path, Preprocessing())
