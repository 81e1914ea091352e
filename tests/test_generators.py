from __future__ import annotations

import copy
import json
import logging
from functools import partial

import pytest
import torch
from torch import nn

from ganinv.priors.loading import load_generator
from ganinv.priors.stylegan2_pytorch import StyleGAN2PyTorch, build_networks
from ganinv.priors.stylegan2_pytorch_files import load_checkpoint, save_prior
from ganinv.priors.stylegan2_pytorch_form import SLOPE, Activation, run_generator
from ganinv.worlds.world import PRETRAINED

ARCHITECTURES = {
    "16px": {"resolution": 16, "capacity": 4},
    "32px wide": {"resolution": 32, "capacity": 6, "depth": 3, "w_dim": 24},
    "64px": {"resolution": 64, "capacity": 2},
    "capped": {"resolution": 32, "capacity": 8, "fmap_max": 24},
    "all capped": {"resolution": 16, "capacity": 8, "fmap_max": 9},
    "attention": {"resolution": 32, "capacity": 4, "attention": (1, 2)},
    "no const": {"resolution": 16, "capacity": 4, "no_const": True},
    "transparent": {"resolution": 16, "capacity": 4, "transparent": True},
    "lr_mlp": {"resolution": 16, "capacity": 4, "lr_mlp": 0.5},
    "all": {"resolution": 32, "capacity": 4, "attention": (3,), "no_const": True, "transparent": True, "w_dim": 20},
}


def make_networks(**architecture) -> tuple[nn.Module, nn.Module]:
    """Returns the package's own networks; noise layers, which start at zero, get weights, so that noise matters."""
    torch.manual_seed(0)
    mapping, synthesis = build_networks(**{"w_dim": 16, **architecture})
    with torch.no_grad():
        for block in synthesis.blocks:
            block.to_noise1.weight.normal_()
            block.to_noise2.weight.normal_()
    return mapping, synthesis


def test_the_activation_has_the_gradients_of_its_formula_and_theirs():
    torch.manual_seed(0)
    places = torch.randn(1, 4, 2, dtype=torch.float64)
    y, noise = (torch.randn(shape, dtype=torch.float64, requires_grad=True) for shape in ((2, 3, 2, 2), (2, 2, 3)))

    def run(y, noise):
        return Activation.apply(y.clone(memory_format=torch.channels_last), places, noise)

    expected = nn.functional.leaky_relu(y + (places @ noise).transpose(1, 2).view_as(y), SLOPE)
    assert torch.allclose(run(y, noise), expected, atol=1e-12)
    assert torch.autograd.gradcheck(run, (y, noise)) and torch.autograd.gradgradcheck(run, (y, noise))


def make_checkpoint(path, mapping, synthesis, **changes):
    """Writes what stylegan2-pytorch's trainer writes: trained and averaged networks, and a discriminator's weights."""
    state = {"D.final_conv.weight": torch.zeros(3), "D_aug.D.final_conv.weight": torch.zeros(3)}
    for prefix, network in (("S", mapping), ("G", synthesis), ("SE", mapping), ("GE", synthesis)):
        state |= {f"{prefix}.{name}": value for name, value in network.state_dict().items()}
    state |= changes
    torch.save({"GAN": {name: value for name, value in state.items() if value is not None}, "version": "1.9.0"}, path)
    return path


@pytest.mark.parametrize("name", ARCHITECTURES)
@torch.no_grad()
def test_a_package_checkpoint_gives_the_package_s_pictures(name, tmp_path):
    mapping, synthesis = make_networks(**ARCHITECTURES[name])
    path = make_checkpoint(tmp_path / "model_7.pt", mapping, synthesis)
    if "lr_mlp" in ARCHITECTURES[name]:
        (tmp_path / ".config.json").write_text(json.dumps({"lr_mlp": 0.5, "image_size": 16}))
    prior = load_checkpoint(path)
    z = torch.randn(3, prior.z_dim)
    w = mapping(z)[:, None].expand(-1, synthesis.num_layers, -1)
    expected = synthesis(w, prior.noise.expand(3, -1, -1, -1))
    colour = expected[:, :3] * 2 - 1
    expected = colour * expected[:, 3:].clamp(0, 1) if expected.shape[1] == 4 else colour
    assert prior.num_ws == synthesis.num_layers and prior.resolution == synthesis.image_size
    torch.testing.assert_close(prior.map(z), w)
    images = prior.synthesize(prior.map(z))
    assert images.shape == (3, 3, prior.resolution, prior.resolution)
    torch.testing.assert_close(images, expected, atol=1e-4, rtol=1e-4)
    assert images.std() > 0.01


def draw_stock(prior: StyleGAN2PyTorch, w: torch.Tensor) -> torch.Tensor:
    """Returns the images of the package's own modules, as interfaces.Generator wants them."""
    pictures = prior.synthesis(w, prior.noise.expand(len(w), -1, -1, -1))
    colour = pictures[:, :3] * 2 - 1
    return colour * pictures[:, 3:].clamp(0, 1) if pictures.shape[1] == 4 else colour


def pull(draw, w: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns the images that w gives and the gradient [N,...] of their sum under seeded weights."""
    w = w.detach().requires_grad_()
    images = draw(w)
    weights = torch.randn(images.shape[1:], generator=torch.Generator().manual_seed(1), dtype=images.dtype)
    return images.detach(), torch.autograd.grad((images * weights).sum(), w)[0]


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_the_gradients_are_the_package_s(name):
    prior = StyleGAN2PyTorch(*make_networks(**ARCHITECTURES[name])).double()
    w = torch.randn(3, prior.num_ws, prior.w_dim, dtype=torch.float64)
    (images, gradient), (expected, slope) = pull(prior.synthesize, w), pull(partial(draw_stock, prior), w)
    attention = bool(ARCHITECTURES[name].get("attention"))  # which runs in float32
    torch.testing.assert_close(images, expected, rtol=0, atol=1e-4 if attention else 1e-10)
    assert (gradient - slope).norm() < (1e-4 if attention else 1e-10) * slope.norm()


def test_a_trained_prior_gives_the_package_s_pictures_and_gradients():
    prior = load_checkpoint(PRETRAINED / "faces" / "prior.safetensors")
    w = prior.map(torch.randn(8, prior.z_dim, generator=torch.Generator().manual_seed(0)), 0.8)
    (images, gradient), (expected, slope) = pull(prior.synthesize, w), pull(partial(draw_stock, prior), w)
    assert (images - expected).abs().max() < 1e-4
    assert (gradient - slope).norm() < 2e-3 * slope.norm()
    # single samples may lie on a kink of a leaky ReLU, where rounding decides the side
    assert ((gradient - slope).flatten(1).norm(dim=1) / slope.flatten(1).norm(dim=1)).median() < 1e-5
    with torch.autocast("cpu", torch.bfloat16):
        coarse, rough = pull(prior.synthesize, w)
    assert coarse.dtype == torch.float32 and 0 < (coarse - expected).abs().mean() < 0.02
    assert torch.cosine_similarity(rough.flatten(), slope.flatten(), dim=0) > 0.97


@torch.no_grad()
def test_what_was_made_ready_follows_the_weights():
    mapping, synthesis = make_networks(resolution=16, capacity=4)
    prior, other = StyleGAN2PyTorch(mapping, synthesis), StyleGAN2PyTorch(*make_networks(resolution=16, capacity=4))
    w = torch.randn(2, prior.num_ws, prior.w_dim)
    names = list(prior.state_dict())
    with torch.inference_mode():
        before = prior.synthesize(w)
    for tensor in other.synthesis.parameters():
        tensor.mul_(1.5)
    prior.load_state_dict(other.state_dict())
    assert not torch.allclose(prior.synthesize(w), before) and torch.equal(prior.synthesize(w), other.synthesize(w))
    assert copy.deepcopy(prior).to(torch.float64).synthesize(w.double()).dtype == torch.float64
    assert list(prior.state_dict()) == names


def test_weights_that_change_get_the_package_s_gradients():
    mapping, synthesis = make_networks(resolution=16, capacity=4, no_const=True)
    synthesis.double()
    w, noise = torch.randn(2, 3, 16, dtype=torch.float64), torch.rand(2, 16, 16, 1, dtype=torch.float64)
    expected = torch.autograd.grad(synthesis(w, noise).square().sum(), list(synthesis.parameters()))
    found = torch.autograd.grad(run_generator(synthesis, w, noise).square().sum(), list(synthesis.parameters()))
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)


@torch.no_grad()
def test_layers_take_their_own_w_and_noise_matters():
    mapping, synthesis = make_networks(resolution=16, capacity=4)
    prior = StyleGAN2PyTorch(mapping, synthesis)
    w = torch.randn(2, prior.num_ws, prior.w_dim)
    expected = synthesis(w, prior.noise.expand(2, -1, -1, -1)) * 2 - 1
    torch.testing.assert_close(prior.synthesize(w), expected, atol=1e-4, rtol=1e-4)
    other = StyleGAN2PyTorch(mapping, synthesis, noise=torch.zeros(1, 16, 16, 1))
    assert (other.synthesize(w) - prior.synthesize(w)).abs().max() > 1e-3


def test_a_picture_does_not_depend_on_its_neighbours_and_gradients_reach_w():
    prior = StyleGAN2PyTorch(*make_networks(resolution=16, capacity=4, attention=(1,)))
    w = torch.randn(3, prior.num_ws, prior.w_dim, requires_grad=True)
    torch.testing.assert_close(prior.synthesize(w)[1:2], prior.synthesize(w[1:2]), atol=1e-5, rtol=1e-5)
    prior.synthesize(w)[1].sum().backward()
    assert w.grad[1].abs().min() > 0 and w.grad[[0, 2]].abs().max() == 0
    assert not prior.training and not any(parameter.requires_grad for parameter in prior.parameters())


@torch.no_grad()
def test_psi_pulls_towards_the_mean_of_many_latents():
    mapping, synthesis = make_networks(resolution=16, capacity=4)
    prior = StyleGAN2PyTorch(mapping, synthesis)
    z = torch.randn(5, prior.z_dim)
    w = prior.map(z)
    torch.testing.assert_close(prior.map(z, psi=0.0), prior.mean_w.expand_as(w))
    torch.testing.assert_close(prior.map(z, psi=0.5), (w + prior.mean_w) / 2)
    many = mapping(torch.randn(40_000, prior.z_dim)).mean(0)
    assert (many - prior.mean_w).norm() < 0.05 * mapping(z).std(0).norm()


def test_attention_keeps_float32_under_autocast():
    prior = StyleGAN2PyTorch(*make_networks(resolution=16, capacity=4, attention=(1,)))
    seen = []
    prior.synthesis.attns[2].register_forward_hook(lambda layer, x, y: seen.append((x[0].dtype, y.dtype)))
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        images = prior.synthesize(torch.randn(1, prior.num_ws, prior.w_dim))
    assert seen == [(torch.float32, torch.float32)] and images.dtype == torch.float32


@torch.no_grad()
@pytest.mark.parametrize("name", ["16px", "all", "lr_mlp"])
def test_our_own_file_keeps_pictures_mean_and_noise(name, tmp_path):
    mapping, synthesis = make_networks(**ARCHITECTURES[name])
    weights = {f"{part}.{key}": value for part, net in (("SE", mapping), ("GE", synthesis))
               for key, value in net.state_dict().items()}  # fmt: skip
    path, lr_mlp = tmp_path / "prior.safetensors", ARCHITECTURES[name].get("lr_mlp", 0.1)
    card = save_prior(path, weights, {"command": "train", "seed": 3}, lr_mlp=lr_mlp)
    assert json.loads((tmp_path / "prior.json").read_text()) == json.loads(json.dumps(card))
    assert card["kind"] == "stylegan2_pytorch" and card["seed"] == 3 and card["resolution"] == synthesis.image_size
    prior, again = load_generator(str(path), "cpu"), load_checkpoint(path)
    exact = StyleGAN2PyTorch(mapping, synthesis)
    z = torch.randn(2, exact.z_dim)
    w = exact.map(z)
    assert (prior.map(z) - w).square().mean().sqrt() < 0.05 * w.std()  # with the lr_mlp that the file keeps
    assert torch.equal(prior.mean_w, again.mean_w) and torch.equal(prior.noise, exact.noise)
    assert (prior.mean_w - exact.mean_w).square().mean().sqrt() < 0.02 * w.std()
    pictures = exact.synthesize(w)
    assert (prior.synthesize(w) - pictures).square().mean().sqrt() < 0.05 * pictures.std()  # weights as int8 rows
    path.with_suffix(".json").unlink()
    assert torch.equal(load_checkpoint(path).synthesize(w), prior.synthesize(w))


def test_a_changed_file_or_card_is_refused(tmp_path):
    mapping, synthesis = make_networks(resolution=16, capacity=4)
    weights = {f"SE.{key}": value for key, value in mapping.state_dict().items()}
    weights |= {f"GE.{key}": value for key, value in synthesis.state_dict().items()}
    path = tmp_path / "prior.safetensors"
    save_prior(path, weights, {})
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(ValueError, match="expected SHA-256"):
        load_checkpoint(path)
    path.write_bytes(data[: len(data) // 2])
    with pytest.raises(ValueError, match="whole safetensors file"):
        load_checkpoint(path)


def test_lr_mlp_is_read_or_its_assumption_is_logged_once(tmp_path, caplog):
    mapping, synthesis = make_networks(resolution=16, capacity=4)
    path = make_checkpoint(tmp_path / "model_1.pt", mapping, synthesis)
    with caplog.at_level(logging.WARNING):
        assert load_checkpoint(path).mapping.net[0].lr_mul == 0.1
    assert [record.getMessage() for record in caplog.records] == [f"{path} does not say lr_mlp: assumed the default, 0.1"]
    caplog.clear()
    (tmp_path / ".config.json").write_text(json.dumps({"lr_mlp": 0.01, "image_size": 16, "attn_layers": []}))
    assert load_checkpoint(path).mapping.net[0].lr_mul == 0.01
    assert not caplog.records


@pytest.mark.parametrize(
    "config, match",
    [("{", "expected JSON"), ("[]", "expected JSON"), ('{"image_size": 64, "lr_mlp": 0.1}', "image_size 16.*got 64"),
     ('{"lr_mlp": "x"}', "number lr_mlp")],
)  # fmt: skip
def test_a_config_of_another_model_is_refused(config, match, tmp_path):
    path = make_checkpoint(tmp_path / "model_1.pt", *make_networks(resolution=16, capacity=4))
    (tmp_path / ".config.json").write_text(config)
    with pytest.raises(ValueError, match=match):
        load_checkpoint(path)


@pytest.mark.parametrize(
    "changes, match",
    [
        ({"GE.blocks.1.conv1.weight": None}, r"GE\.blocks\.1\.conv1\.weight"),
        ({"GE.blocks.2.conv2.weight": None}, r"GE\.blocks\.2\.conv2\.weight"),
        ({"GE.extra": torch.zeros(2)}, r"GE\.extra"),
        ({"generator.weight": torch.zeros(2)}, r"generator\.weight"),
        ({"SE.net.0.bias": torch.full((16,), torch.nan)}, r"NaN or infinity in SE\.net\.0\.bias"),
        ({"SE.net.0.bias": torch.zeros(7)}, r"SE\.net\.0\.bias of shape \[16\], got \[7\]"),
        ({"SE.net.0.weight": torch.zeros(7)}, r"SE\.net\.0\.weight with 2 dimensions"),
        ({"GE.blocks.900.conv1.weight": torch.zeros(2)}, "1 to 10 blocks"),
    ],
)
def test_a_wrong_checkpoint_is_refused_by_name(changes, match, tmp_path):
    path = make_checkpoint(tmp_path / "model_1.pt", *make_networks(resolution=16, capacity=4), **changes)
    with pytest.raises(ValueError, match=match) as caught:
        load_checkpoint(path)
    assert "\n" not in str(caught.value)


def test_a_file_without_averaged_networks_is_refused(tmp_path):
    torch.save({"GAN": {"S.net.0.weight": torch.zeros(2, 2)}}, tmp_path / "model_1.pt")
    with pytest.raises(ValueError, match="GE.blocks"):
        load_checkpoint(tmp_path / "model_1.pt")


def test_loading_leaves_the_caller_s_random_numbers_alone(tmp_path):
    path = make_checkpoint(tmp_path / "model_1.pt", *make_networks(resolution=16, capacity=4))
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    load_checkpoint(path)
    assert torch.equal(torch.rand(3), expected)


def test_w_of_another_shape_is_refused():
    prior = StyleGAN2PyTorch(*make_networks(resolution=16, capacity=4))
    with pytest.raises(ValueError, match=r"expected w of shape \[N,3,16\], got \[2, 16\]"):
        prior.synthesize(torch.zeros(2, 16))
