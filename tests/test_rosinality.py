from __future__ import annotations

import argparse
import logging
import math

import pytest
import torch

from ganinv.priors.loading import load_generator
from tests.stylegan2_reference import FIR, complete_an_attack, dense, lrelu, modulated, normalised, upsampled


def make_state(*, channels=(6, 5), w_dim=7, depth=2) -> dict[str, torch.Tensor]:
    """Returns the state of the project's Generator, by its names and shapes, with random weights."""
    draw = torch.Generator().manual_seed(0)

    def randn(*shape):
        return torch.randn(*shape, generator=draw)

    state = {"input.input": randn(1, channels[0], 4, 4)}
    for index in range(1, depth + 1):
        state |= {f"style.{index}.weight": randn(w_dim, w_dim) / 0.01, f"style.{index}.bias": randn(w_dim)}

    def add_conv(name, outputs, inputs, *, up=False):
        state[f"{name}.conv.weight"] = randn(1, outputs, inputs, 3, 3)
        state[f"{name}.conv.modulation.weight"] = randn(inputs, w_dim)
        state[f"{name}.conv.modulation.bias"] = randn(inputs)
        state[f"{name}.noise.weight"] = randn(1)
        state[f"{name}.activate.bias"] = randn(outputs)
        if up:
            state[f"{name}.conv.blur.kernel"] = 4 * FIR

    def add_rgb(name, inputs, *, up=False):
        state[f"{name}.conv.weight"] = randn(1, 3, inputs, 1, 1)
        state[f"{name}.conv.modulation.weight"] = randn(inputs, w_dim)
        state[f"{name}.conv.modulation.bias"] = randn(inputs)
        state[f"{name}.bias"] = randn(1, 3, 1, 1)
        if up:
            state[f"{name}.upsample.kernel"] = 4 * FIR

    add_conv("conv1", channels[0], channels[0])
    add_rgb("to_rgb1", channels[0])
    state["noises.noise_0"] = randn(1, 1, 4, 4)
    for index, (inputs, outputs) in enumerate(zip(channels, channels[1:], strict=False)):
        add_conv(f"convs.{2 * index}", outputs, inputs, up=True)
        add_conv(f"convs.{2 * index + 1}", outputs, outputs)
        add_rgb(f"to_rgbs.{index}", outputs, up=True)
        for number in (1, 2):
            state[f"noises.noise_{2 * index + number}"] = randn(1, 1, 8 * 2**index, 8 * 2**index)
    return state


def write(path, state, **others):
    """Writes what the project's trainer and its converters write."""
    torch.save({"g_ema": state, **others}, path)
    return path


# ---- the reference: the project's Generator.forward with randomize_noise=False, one sample at a time


def styled(state, name, x, w, noise, *, up=False):
    weight = state[f"{name}.conv.weight"][0]
    weight = weight / math.sqrt(weight[0].numel())
    style = dense(w, state[f"{name}.conv.modulation.weight"], state[f"{name}.conv.modulation.bias"])
    x = modulated(x, weight, style, up=up) + state[f"{name}.noise.weight"] * noise[0]
    return lrelu(x + state[f"{name}.activate.bias"][:, None, None])


def to_rgb(state, name, x, w, skip=None):
    weight = state[f"{name}.conv.weight"][0] / math.sqrt(len(x))
    style = dense(w, state[f"{name}.conv.modulation.weight"], state[f"{name}.conv.modulation.bias"])
    picture = modulated(x, weight, style, demodulate=False) + state[f"{name}.bias"][0]
    return picture if skip is None else picture + upsampled(skip)


def reference_picture(state, w):
    x = styled(state, "conv1", state["input.input"][0], w[0], state["noises.noise_0"])
    picture = to_rgb(state, "to_rgb1", x, w[1])
    index = 0
    while f"to_rgbs.{index}.bias" in state:
        at = 2 * index + 1
        x = styled(state, f"convs.{at - 1}", x, w[at], state[f"noises.noise_{at}"], up=True)
        x = styled(state, f"convs.{at}", x, w[at + 1], state[f"noises.noise_{at + 1}"])
        picture = to_rgb(state, f"to_rgbs.{index}", x, w[at + 2], picture)
        index += 1
    return picture


def reference_w(state, z):
    x, index = normalised(z), 1
    while f"style.{index}.weight" in state:
        x = lrelu(dense(x, state[f"style.{index}.weight"], state[f"style.{index}.bias"], 0.01))
        index += 1
    return x


# ---- tests


@pytest.mark.parametrize("options", [{}, {"channels": (6, 5, 4, 3), "depth": 1}, {"channels": (4,)}])
@torch.no_grad()
def test_a_checkpoint_gives_the_pictures_of_the_plain_reference(options, tmp_path, caplog):
    state = make_state(**options)
    mean = torch.randn(7)
    with caplog.at_level(logging.WARNING):
        prior = load_generator(str(write(tmp_path / "ffhq.pt", state, latent_avg=mean)), "cpu")
    assert not caplog.records and prior.resolution == 4 * 2 ** (len(options.get("channels", (6, 5))) - 1)
    w = torch.randn(2, prior.num_ws, prior.w_dim)
    expected = torch.stack([reference_picture(state, one) for one in w])
    torch.testing.assert_close(prior.synthesize(w), expected, atol=1e-4, rtol=1e-4)
    z = torch.randn(2, 7)
    expected = torch.stack([reference_w(state, one) for one in z])
    torch.testing.assert_close(prior.map(z)[:, -1], expected, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(prior.map(z, 0.25)[:, 0], mean + 0.25 * (expected - mean), atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_a_trainer_s_checkpoint_with_options_and_optimisers_and_no_mean(tmp_path):
    state = make_state()
    optimizer = {"state": {0: {"step": 3, "exp_avg": torch.zeros(2)}}, "param_groups": [{"lr": 2e-3, "betas": (0.0, 0.99)}]}
    path = write(
        tmp_path / "550000.pt", state, g=state, d={"final_conv.0.weight": torch.zeros(2)}, g_optim=optimizer,
        args=argparse.Namespace(size=8, path="lmdb"), ada_aug_p=0.1,
    )  # fmt: skip
    prior = load_generator(str(path), "cpu")
    w = prior.map(torch.randn(40_000, 7))[:, 0]
    assert (prior.map(torch.zeros(1, 7), psi=0.0)[0, 0] - w.mean(0)).norm() < 0.05 * w.std(0).norm()


@torch.no_grad()
def test_noise_that_a_file_lacks_is_drawn_alike_and_said(tmp_path, caplog):
    state = {name: value for name, value in make_state().items() if not name.startswith("noises.")}
    path = write(tmp_path / "old.pt", state)
    with caplog.at_level(logging.WARNING):
        first, second = load_generator(str(path), "cpu"), load_generator(str(path), "cpu")
    assert "holds no noise for 3 layers" in caplog.text
    w = torch.randn(1, first.num_ws, first.w_dim)
    assert torch.equal(first.synthesize(w), second.synthesize(w))


def test_an_attack_completes(tmp_path):
    complete_an_attack(load_generator(str(write(tmp_path / "ffhq.pt", make_state())), "cpu"))


@pytest.mark.parametrize(
    "changes, match",
    [
        ({"convs.1.conv.weight": torch.full((1, 5, 5, 3, 3), torch.nan)}, r"NaN or infinity in synthesis\.b8\.conv1\.weight"),
        ({"convs.0.conv.weight": torch.zeros(1, 5, 6, 1, 1)}, r"conv0\.weight of shape \[5, 6, 3, 3\], got \[5, 6, 1, 1\]"),
        ({"convs.0.conv.weight": torch.zeros(2, 5, 6, 3, 3)}, r"got \[2, 5, 6, 3, 3\]"),
        ({"convs.0.activate.bias": None}, r"the tensor\(s\) synthesis\.b8\.conv0\.bias"),
        ({"extra.weight": torch.zeros(2)}, r"rosinality's stylegan2-pytorch in .*got 'extra\.weight'"),
        ({"convs.900.conv.weight": torch.zeros(2)}, "convolutions .* got number 901"),
        ({"convs.0.conv.blur.kernel": torch.ones(4, 4) / 4}, "expected the filter"),
        ({"style.1.weight": None}, r"mapping\.fc0"),
    ],
)  # fmt: skip
def test_a_wrong_checkpoint_is_refused_by_name(changes, match, tmp_path):
    state = {name: value for name, value in (make_state() | changes).items() if value is not None}
    path = write(tmp_path / "a.pt", state)
    with pytest.raises(ValueError, match=match) as caught:
        load_generator(str(path), "cpu")
    assert "\n" not in str(caught.value) and "a.pt" in str(caught.value)


@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: {"params_ema": state},
        lambda state: {"g_ema": {f"module.{name}": value for name, value in state.items()}},
        lambda state: {"state_dict": {f"generator_ema.{name}": value for name, value in state.items()}},
        lambda state: state,
    ],
)
def test_the_generator_is_found_below_whatever_it_is_wrapped_in(wrap, tmp_path):
    state = make_state()
    torch.save(wrap(state), tmp_path / "a.pt")
    expected = load_generator(str(write(tmp_path / "b.pt", state)))
    found = load_generator(str(tmp_path / "a.pt"))
    assert all(torch.equal(value, found.state_dict()[name]) for name, value in expected.state_dict().items())
