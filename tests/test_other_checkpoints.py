"""Checkpoints in the shapes that other trainers leave: the same network comes out, or one line says what is missing."""

from __future__ import annotations

import json

import pytest
import torch
from torch import nn

from ganinv.priors.loading import load_generator
from ganinv.priors.stylegan2_pytorch import build_networks, import_stylegan2_pytorch
from ganinv.recognizers.loading import load_recognizer
from ganinv.recognizers.preprocessing import draw_faces

SIDE = 32


@pytest.fixture(scope="module")
def resnet():
    import torchvision

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return torchvision.models.resnet18(num_classes=5).eval()


def split(state: dict, body: str, head: str) -> dict:
    """Returns a state dict whose last layer has another name than the rest."""
    return {(f"{head}.{name[3:]}" if name.startswith("fc.") else f"{body}{name}"): value for name, value in state.items()}


def norm_weight(state: dict, length: str, direction: str) -> dict:
    """Returns a state dict whose last layer's weights are kept as lengths and directions."""
    weight = state["fc.weight"]
    rest = {name: value for name, value in state.items() if name != "fc.weight"}
    return rest | {f"fc.{length}": weight.norm(dim=1, keepdim=True), f"fc.{direction}": 3 * weight}


def load(network: nn.Module, state: dict, folder, **card):
    path = folder / "a.pt"
    torch.save(state, path)
    path.with_suffix(".json").write_text(json.dumps({"preprocessing": {"size": SIDE} | card}))
    recognizer = load_recognizer(f"torchvision:resnet18:{path}", resolution=SIDE)
    images = draw_faces(2, SIDE)
    with torch.no_grad():
        torch.testing.assert_close(recognizer(images).logits, network(recognizer.preprocessing(images)), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    "change",
    [
        lambda state: split(state, "backbone.", "head"),
        lambda state: split(state, "module.encoder.", "module.classifier.1"),
        lambda state: split(state, "encoder.", "fc"),
        lambda state: split(state, "", "fc.1"),
        lambda state: norm_weight(state, "weight_g", "weight_v"),
        lambda state: norm_weight(state, "parametrizations.weight.original0", "parametrizations.weight.original1"),
        lambda state: {"state_dict": split(state, "model.", "model.head")},
    ],
)
def test_a_last_layer_of_another_name_or_form_is_found(change, resnet, tmp_path):
    load(resnet, change(resnet.state_dict()), tmp_path)


def test_two_last_layers_are_refused(resnet, tmp_path):
    state = split(resnet.state_dict(), "backbone.", "head") | {"other.weight": torch.zeros(5, 512)}
    with pytest.raises(ValueError, match=r"expected the last layer fc.weight in .*a.pt, got none"):
        load(resnet, state, tmp_path)


def test_a_first_layer_of_grey_is_taken_where_the_card_says_so(tmp_path):
    import torchvision

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = torchvision.models.resnet18(num_classes=5)
        network.conv1 = nn.Conv2d(1, 64, 7, 2, 3, bias=False)
    load(network.eval(), network.state_dict(), tmp_path, channels="L")
    with pytest.raises(ValueError, match='say "channels": "L" on a.json'):
        load(network, network.state_dict(), tmp_path)


# ---- priors


def make_prior(*, attention: tuple[int, ...] = ()) -> dict:
    """Returns what stylegan2-pytorch's trainer keeps of a small prior, of its averaged networks alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        networks = build_networks(8, 2, w_dim=8, depth=1, fmap_max=4, attention=attention)
    parts = zip(("SE", "GE"), networks, strict=True)
    return {f"{part}.{name}": value for part, network in parts for name, value in network.state_dict().items()}


def draw(path) -> torch.Tensor:
    prior = load_generator(str(path))
    with torch.no_grad():
        return prior.synthesize(prior.map(torch.ones(1, prior.z_dim)))


@pytest.mark.parametrize(
    "wrap", [lambda s: {"GAN": s}, lambda s: s, lambda s: {"state_dict": {f"module.{n}": s[n] for n in s}}]
)
def test_networks_that_nothing_was_averaged_into_are_taken_and_told_of(wrap, tmp_path, caplog):
    state = make_prior()
    torch.save({"GAN": state}, tmp_path / "a.pt")
    torch.save(wrap({name.replace("E.", ".", 1): value for name, value in state.items()}), tmp_path / "b.pt")
    assert torch.equal(draw(tmp_path / "a.pt"), draw(tmp_path / "b.pt"))
    assert caplog.text.count("has no averaged networks SE and GE") == 1


def older_forward(self, x: torch.Tensor) -> torch.Tensor:
    """ChanNorm of stylegan2-pytorch 1.8.7."""
    std = torch.var(x, dim=1, unbiased=False, keepdim=True).sqrt()
    mean = torch.mean(x, dim=1, keepdim=True)
    return (x - mean) / (std + self.eps) * self.g + self.b


def test_attention_of_an_older_package_draws_its_pictures(tmp_path, monkeypatch):
    state = make_prior(attention=(1,))
    for name, version in (("older", "1.8.7"), ("newer", "1.8.8"), ("unsaid", None)):
        torch.save({"GAN": state} | ({"version": version} if version else {}), tmp_path / f"{name}.pt")
    drawn = {name: draw(tmp_path / f"{name}.pt") for name in ("older", "newer", "unsaid")}
    assert torch.equal(drawn["newer"], drawn["unsaid"]) and not torch.equal(drawn["older"], drawn["newer"])
    monkeypatch.setattr(import_stylegan2_pytorch().ChanNorm, "forward", older_forward)
    torch.testing.assert_close(drawn["older"], draw(tmp_path / "newer.pt"))
