from __future__ import annotations

import json
import os
import pickle

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from ganinv.interfaces import Recognition
from ganinv.priors.loading import load_generator
from ganinv.recognizers.callable import CallableRecognizer
from ganinv.recognizers.checks import check_recognizer
from ganinv.recognizers.cosine import CosineRecognizer
from ganinv.recognizers.loading import load_recognizer, save_recognizer
from ganinv.weights.files import read_tensors, save_weights, sha256_file
from ganinv.weights.quantisation import dequantise, quantise


@pytest.fixture
def recognizer(monkeypatch) -> CosineRecognizer:
    """A recognizer whose backbone is small, with running statistics that are not the first ones."""

    def build(architecture: str, embedding_dim: int, input_size: int) -> nn.Module:
        if architecture != "tiny":
            raise ValueError(f"expected tiny, got {architecture}")
        return nn.Sequential(nn.Flatten(), nn.Linear(3 * input_size**2, embedding_dim), nn.BatchNorm1d(embedding_dim))

    monkeypatch.setattr("ganinv.recognizers.cosine.build_backbone", build)
    torch.manual_seed(0)
    model = CosineRecognizer("tiny", num_identities=5, embedding_dim=8, input_size=16, scale=20.0)
    model.train()(torch.rand(32, 3, 16, 16) * 2 - 1)
    return model.eval()


def save(recognizer, path):
    save_recognizer(recognizer, path, {"command": "python train.py", "seed": 1, "metrics": {"top1": 0.9}})
    return path


# ---- recognizers of our own


@torch.no_grad()
@pytest.mark.parametrize("open_set", [False, True])
def test_a_saved_recognizer_comes_back(open_set, recognizer, tmp_path):
    if open_set:
        recognizer.directions, recognizer.num_identities = None, None
    path = save(recognizer, tmp_path / "a" / "target.safetensors")
    card = json.loads(path.with_suffix(".json").read_text())
    assert card["sha256"] == sha256_file(path) and card["metrics"] == {"top1": 0.9} and card["kind"] == "cosine"
    stored = load_file(path)
    assert all((value.dtype == torch.int8) == (value.ndim >= 2) for value in stored.values())
    assert sorted(file.name for file in path.parent.iterdir()) == ["target.json", "target.safetensors"]

    loaded = load_recognizer(str(path), "cpu")
    check_recognizer(loaded, 16)
    assert not loaded.training and not any(p.requires_grad or p.dtype != torch.float32 for p in loaded.parameters())
    images = torch.rand(3, 3, 20, 20) * 2 - 1
    exact, ours = recognizer(images), loaded(images)
    torch.testing.assert_close(ours.embeddings, exact.embeddings, atol=3e-2, rtol=0)
    if open_set:
        assert ours.logits is None and loaded.num_identities is None
    else:
        torch.testing.assert_close(ours.logits, exact.logits, atol=0.1, rtol=0)
        assert loaded.num_identities == 5 and loaded.scale == 20.0


def test_real_architectures_load(tmp_path):
    model = CosineRecognizer("alexnet_trunk", num_identities=3, embedding_dim=4, input_size=64).eval()
    path = save(model, tmp_path / "judge.safetensors")
    before = torch.random.get_rng_state()
    check_recognizer(load_recognizer(str(path), "cpu"), 32)
    assert torch.equal(torch.random.get_rng_state(), before)


def spoil(path, kind: str) -> None:
    card_path = path.with_suffix(".json")
    card, tensors = json.loads(card_path.read_text()), load_file(path)
    name = "backbone.1.weight"
    if kind == "missing":
        path.unlink()
    elif kind == "no card":
        card_path.unlink()
    elif kind == "broken card":
        card_path.write_text("{")
    elif kind == "truncated":
        path.write_bytes(path.read_bytes()[:-100])
    elif kind == "bit":
        data = bytearray(path.read_bytes())
        data[-1] ^= 1
        path.write_bytes(data)
    elif kind in ("architecture", "kind", "embedding_dim"):
        card[kind] = {"architecture": "resnet", "kind": "pickle", "embedding_dim": "many"}[kind]
        card_path.write_text(json.dumps(card))
    else:
        step = f"{name}.step"
        tensors |= {
            "nan": {step: tensors[step] * torch.nan},
            "shape": {name: tensors[name][:, :5].clone()},
            "odd": {"extra": torch.zeros(2)},
            "lost": {},
        }[kind]
        if kind == "lost":
            del tensors[name], tensors[step]
        save_file(tensors, path)
        card_path.write_text(json.dumps(card | {"sha256": sha256_file(path)}))


@pytest.mark.parametrize(
    "kind, match",
    [
        ("missing", "target.safetensors, missing"),
        (
            "no card",
            "the network of the weights .*target.safetensors, or their card target.json, got the file alone",
        ),
        ("broken card", "expected JSON in .*target.json"),
        ("truncated", "whole safetensors file"),
        ("bit", "expected SHA-256"),
        ("architecture", "expected tiny, got resnet"),
        ("kind", "kind cosine beside .*got pickle"),
        ("embedding_dim", "embedding_dim on the card.*'many'"),
        ("nan", "NaN or infinity in backbone.1.weight"),
        ("shape", r"backbone.1.weight of shape \[8, 768\], got \[8, 5\]"),
        ("odd", r"no tensor\(s\) extra"),
        ("lost", r"the tensor\(s\) backbone.1.weight"),
    ],
)
def test_a_spoilt_recognizer_is_refused_by_name(kind, match, recognizer, tmp_path):
    path = save(recognizer, tmp_path / "target.safetensors")
    spoil(path, kind)
    with pytest.raises(ValueError, match=match) as caught:
        load_recognizer(str(path), "cpu")
    assert "\n" not in str(caught.value)


def test_nothing_is_written_over_a_good_file_by_a_bad_one(recognizer, tmp_path):
    path = save(recognizer, tmp_path / "target.safetensors")
    digest = sha256_file(path)
    with torch.no_grad():
        recognizer.backbone[1].weight[0, 0] = torch.inf
    with pytest.raises(ValueError, match="NaN or infinity in backbone.1.weight.step; nothing was written"):
        save(recognizer, path)
    assert sha256_file(path) == digest
    with pytest.raises(ValueError, match="ends in .safetensors"):
        save_weights(tmp_path / "a.pt", {}, {})


def test_quantised_weights_come_back_within_half_a_step():
    weight = torch.tensor([[1.0, -0.5, 0.003], [0.0, 0.0, 0.0], [254.0, 1.1, -3.0]])
    tensors = {"w": weight, "b": torch.tensor([0.3, 0.1]), "n": torch.tensor(3)}
    packed = quantise(tensors)
    assert packed["w"].tolist() == [[127, -64, 0], [0, 0, 0], [127, 1, -2]] and packed["w.step"][2] == 2.0
    back = dequantise(packed)
    assert back.keys() == tensors.keys() and torch.equal(back["b"], tensors["b"])
    assert ((back["w"] - weight).abs() <= weight.abs().amax(1, keepdim=True) / 253.9).all()
    assert torch.equal(dequantise(quantise(back))["w"], back["w"])  # rounding again changes nothing


def test_quantise_copies():
    tensors = {"b": torch.ones(2), "n": torch.tensor(3)}
    packed = quantise(tensors)
    packed["b"].zero_()
    packed["n"].zero_()
    assert tensors["b"].sum() == 2 and tensors["n"] == 3


# ---- checkpoints


class Payload:
    """Its pickle makes a file, as a hostile one would run a command."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("write", ["torch", "pickle 2", "pickle 4"])
@pytest.mark.parametrize("load", [read_tensors, lambda path: load_generator(str(path), "cpu")])
def test_a_pickle_with_code_is_not_run(write, load, tmp_path):
    made, path = tmp_path / "made", tmp_path / "model_1.pt"
    content = {"GAN": {"w": torch.zeros(2)}, "version": Payload(made)}
    if write == "torch":
        torch.save(content, path)
    else:
        path.write_bytes(pickle.dumps(content, protocol=int(write[-1])))
    with pytest.raises(ValueError, match="tensors and plain data, got .*was not run") as caught:
        load(path)
    assert not made.exists() and "\n" not in str(caught.value)
    if write == "torch":
        assert "mkdir" in str(caught.value)
        torch.load(path, weights_only=False)  # the payload works where it is let loose
        assert made.exists()


def test_nested_dicts_are_flattened(tmp_path):
    torch.save({"GAN": {"S.w": torch.ones(2)}, "version": "1", "amp": {"scale": 2.0}}, tmp_path / "a.pt")
    tensors, rest = read_tensors(tmp_path / "a.pt")
    assert list(tensors) == ["GAN.S.w"] and rest == {"version": "1", "amp.scale": 2.0}
    save_file({"w": torch.ones(2)}, tmp_path / "a.safetensors", metadata={"lr_mlp": "0.1"})
    tensors, rest = read_tensors(tmp_path / "a.safetensors")
    assert tensors["w"].tolist() == [1, 1] and rest == {"lr_mlp": "0.1"}


def test_broken_checkpoints_are_named(tmp_path):
    path = tmp_path / "model.pt"
    torch.save({"w": torch.ones(1000)}, path)
    whole = path.read_bytes()
    for data in (whole[: len(whole) // 2], b"", b"hello", b"\x80"):
        path.write_bytes(data)
        with pytest.raises(ValueError, match=r"^expected a .*checkpoint.* got .*model\.pt") as caught:
            read_tensors(path)
        assert "\n" not in str(caught.value)
    with pytest.raises(ValueError, match="which is missing"):
        read_tensors(tmp_path / "none.pt")
    with pytest.raises(ValueError, match="which is a folder"):
        read_tensors(tmp_path)
    endless: dict = {}
    endless["again"] = endless
    torch.save(endless, path)
    with pytest.raises(ValueError, match="nested too deeply"):
        read_tensors(path)


# ---- code


CODE = """
import torch
from ganinv.interfaces import Recognition
weight = torch.randn(3, 3 * 4 * 4)
def pool(images):
    return torch.nn.functional.adaptive_avg_pool2d(images, 4).flatten(1)
def logits():
    return lambda images: pool(images) @ weight.T
def pair():
    return lambda images: (pool(images), pool(images) @ weight.T)
def embeddings_only():
    return lambda images: (pool(images), None)
def recognition():
    return lambda images: Recognition(pool(images), None)
def module():
    return torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(4), torch.nn.Flatten(), torch.nn.Dropout(), torch.nn.Linear(48, 3))
def text():
    return lambda images: "a face"
def flat():
    return lambda images: pool(images).sum(1)
def nothing():
    return None
def random():
    return lambda images: torch.randn(len(images), 3)
def nan():
    return lambda images: pool(images) * float("nan")
class Full(torch.nn.Module):
    num_identities, embedding_dim = 3, 3
    def __init__(self):
        super().__init__()
        self.network = module()
    def forward(self, images):
        logits = self.network(images)
        return Recognition(torch.nn.functional.normalize(logits, dim=1), logits)
answer = 3
class Prior(torch.nn.Module):
    z_dim, num_ws, w_dim, resolution = 2, 1, 2, 4
    def map(self, z, psi=1.0): return z[:, None]
    def synthesize(self, w): return w.mean(2)[:, :, None, None].expand(-1, 3, 4, 4)
"""  # noqa: E501


@pytest.fixture
def code(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(CODE)
    return path


@pytest.mark.parametrize(
    "factory, dim, identities",
    [
        ("logits", 3, 3),
        ("pair", 48, 3),
        ("embeddings_only", 48, None),
        ("recognition", 48, None),
        ("module", 3, 3),
        ("Full", 3, 3),
    ],
)
def test_any_callable_is_a_recognizer(factory, dim, identities, code):
    recognizer = load_recognizer(f"{code}:{factory}", "cpu", resolution=16)
    check_recognizer(recognizer, 16)
    assert (recognizer.embedding_dim, recognizer.num_identities) == (dim, identities)
    images = (torch.rand(2, 3, 16, 16) * 2 - 1).requires_grad_()
    recognizer(images).embeddings[:, 0].sum().backward()
    assert images.grad.abs().max() > 0
    assert not any(parameter.requires_grad for parameter in recognizer.parameters())


def test_a_module_on_the_path_is_found(code, monkeypatch):
    monkeypatch.syspath_prepend(str(code.parent))
    check_recognizer(load_recognizer("mine:logits", "cpu"), 16)
    prior = load_generator("mine:Prior", "cpu")
    assert prior.synthesize(prior.map(torch.zeros(5, 2))).shape == (5, 3, 4, 4)
    assert load_generator(f"{code}:Prior", "cpu").resolution == 4


@pytest.mark.parametrize(
    "spec, match",
    [
        ("{code}:text", "got str"),
        ("{code}:flat", r"shape \[2,...\] from the recognizer, got \[2\]"),
        ("{code}:nothing", "expected a callable"),
        ("{code}:missing", "function missing in .*got nothing of that name"),
        ("{code}:answer", "function answer in .*got int"),
        ("nowhere_at_all:make", "nowhere_at_all"),
        ("nowhere.py:make", "nowhere.py, which is missing"),
        ("nowhere.safetensors", "nowhere.safetensors, missing"),
        ("{code}", "of another kind"),
    ],
)
def test_a_wrong_spec_is_named(spec, match, code):
    with pytest.raises(ValueError, match=match):
        load_recognizer(spec.format(code=code), "cpu")


def test_a_wrong_prior_is_named(code):
    with pytest.raises(ValueError, match="without .*z_dim.*synthesize"):
        load_generator(f"{code}:logits", "cpu")


class Wrong(nn.Module):
    """A recognizer that breaks one rule."""

    num_identities, embedding_dim = 3, 3

    def __init__(self, answer):
        super().__init__()
        self.answer = answer

    def forward(self, images):
        return self.answer(images.mean((2, 3)))


@pytest.mark.parametrize(
    "answer, match",
    [
        (lambda x: x, "expected a Recognition.*got Tensor"),
        (lambda x: Recognition(nn.functional.normalize(x), x[:, :2]), r"logits of shape \[4, 3\].*got \[4, 2\]"),
        (lambda x: Recognition(nn.functional.normalize(x), None), r"logits of shape \[4, 3\].*got None"),
        (lambda x: Recognition(nn.functional.normalize(x), x / 0), "finite logits"),
        (lambda x: Recognition(2 * nn.functional.normalize(x), x), "norm 1, got norms of 2 to 2"),
        (lambda x: Recognition(nn.functional.normalize(x), torch.randn_like(x)), "same logits twice"),
        (lambda x: Recognition(nn.functional.normalize(torch.randn_like(x)), x), "same embeddings twice"),
        (lambda x: {}["users"], r"^expected an answer for images \[4, 3, 8, 8\], got KeyError .*test_loading.py:\d+"),
    ],
)
def test_check_recognizer_says_what_came(answer, match):
    with pytest.raises(ValueError, match=match):
        check_recognizer(Wrong(answer), 8)


def test_check_recognizer_refuses_random_and_nan_code(code):
    for factory, match in (("random", "same embeddings twice"), ("nan", "finite embeddings")):
        with pytest.raises(ValueError, match=match):
            check_recognizer(load_recognizer(f"{code}:{factory}", "cpu"), 16)


def test_a_callable_keeps_the_norm_of_its_logits():
    wrapped = CallableRecognizer(lambda images: images.mean((2, 3)) * 5, torch.ones(1, 3, 4, 4))
    found = wrapped(torch.ones(1, 3, 4, 4))
    assert found.logits.tolist() == [[5, 5, 5]]
    torch.testing.assert_close(found.embeddings.norm(dim=1), torch.ones(1))


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("def build():\n    1 / 0\n", r"got ZeroDivisionError \(division by zero\) at .*mine.py:2; mend that code"),
        ("import sys\ndef build():\n    sys.exit('no')\n", r"got SystemExit \(no\) at .*mine.py:3"),
        ("def build(size):\n    return size\n", "got TypeError"),
        ("from nowhere_at_all import network\n", "got ModuleNotFoundError .*nowhere_at_all.*mine.py:1"),
        ("def build(:\n", "got SyntaxError"),
    ],
)
def test_code_that_fails_is_one_line(source, message, tmp_path):
    (tmp_path / "mine.py").write_text(source)
    with pytest.raises(ValueError, match=f"expected a model from .*mine.py:build, {message}") as caught:
        load_recognizer(f"{tmp_path / 'mine.py'}:build", "cpu")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("answer", "told"),
    [("x.softmax(1)", "probabilities"), ("torch.tanh(x)", "cosines or sigmoids"), ("x.sigmoid()", "cosines"), ("9 * x", "")],
)
def test_answers_that_are_no_logits_are_told_of(answer, told, tmp_path, caplog):
    weights = "torch.linspace(-2, 2, 12).view(3, 4)"
    (tmp_path / "mine.py").write_text(
        f"import torch\ndef build():\n    def see(images):\n        x = 3 * images.mean((2, 3)) @ {weights} + 0.1\n"
        f"        return {answer}\n    return see\n"
    )
    load_recognizer(f"{tmp_path}/mine.py:build", resolution=16)
    assert (f"look like {told}" in caplog.text) if told else "look like" not in caplog.text


def test_a_file_of_weights_alone_names_the_spec_to_use(tmp_path):
    torch.save({"w": torch.zeros(2)}, tmp_path / "weights.pt")
    for name in ("weights.pt", "weights.safetensors"):
        if name.endswith("s"):
            save_file({"w": torch.zeros(2)}, tmp_path / name)
        with pytest.raises(ValueError, match=f"got the file alone; name the network, such as torchvision:resnet18:.*{name}"):
            load_recognizer(str(tmp_path / name))
