"""Both LPIPS against the definition, and their weights files against accidents. No network."""

import hashlib
import urllib.error

import pytest
import torch
import torch.nn.functional as F
import torchvision
from safetensors.torch import save_file

from ganinv import interfaces
from ganinv.metrics import perceptual

LAYERS = (1, 4, 7, 9, 11)  # AlexNet's activations


@pytest.fixture(scope="module")
def trunk():
    torch.manual_seed(0)
    return torchvision.models.alexnet(weights=None).features.eval()


@pytest.fixture(scope="module")
def face_file(trunk, tmp_path_factory):
    path = tmp_path_factory.mktemp("trunk") / "lpips_face.safetensors"
    tensors = {f"backbone.0.{name}": tensor.contiguous() for name, tensor in trunk.state_dict().items()}
    save_file({**tensors, "backbone.3.weight": torch.zeros(4, 256)}, path)
    return path


@pytest.fixture(scope="module")
def face(face_file):
    return perceptual.lpips_face(face_file)


@pytest.fixture
def imagenet_file(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setenv("GANINV_OFFLINE", "1")
    return tmp_path / "hub" / "checkpoints" / perceptual.TRUNK_FILE


def draw_images(count, side=40, seed=0):
    return torch.rand(count, 3, side, side, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def distance_by_hand(trunk, one, other):
    """Zhang et al. 2018, Eq. 1 with all weights 1, on inputs times two."""
    total = 0.0
    for number in LAYERS:
        left, right = (F.normalize(trunk[: number + 1](image[None] * 2), dim=1) for image in (one, other))
        total += (left - right).square().sum(1).mean().item()
    return total


def test_face_distance_is_equation_1_on_the_trunk_of_the_file(face, trunk):
    images, others = draw_images(2), draw_images(3, seed=1)
    with torch.no_grad():
        expected = [[distance_by_hand(trunk, one, other) for other in others] for one in images]
    assert torch.allclose(face(images, others), torch.tensor(expected), rtol=1e-4)


def test_distance_of_an_image_to_itself_is_zero_and_nearest_finds_it(face):
    images = draw_images(3)
    distances = face(images, images)
    assert distances.diagonal().abs().max() == 0
    assert distances[~torch.eye(3, dtype=torch.bool)].min() > 1e-3
    assert face.nearest(images[1:2], images).item() == pytest.approx(0, abs=1e-6)
    assert torch.equal(face.nearest(images[:1], images[1:]), distances[0, 1:].min()[None])


def test_construction_is_silent_and_draws_no_random_numbers(face_file, recwarn, capsys):
    state = torch.get_rng_state()
    model = perceptual.lpips_face(face_file).model
    assert torch.equal(state, torch.get_rng_state())
    assert not [str(warning.message) for warning in recwarn]
    assert capsys.readouterr() == ("", "")
    assert not model.training and not any(parameter.requires_grad for parameter in model.parameters())


def test_imagenet_distance_is_the_lpips_package_own(imagenet_file, trunk, monkeypatch):
    imagenet_file.parent.mkdir(parents=True)
    torch.save({f"features.{name}": tensor for name, tensor in trunk.state_dict().items()}, imagenet_file)
    digest = hashlib.sha256(imagenet_file.read_bytes()).hexdigest()
    monkeypatch.setattr(perceptual, "TRUNK_SHA256", digest)
    distance = perceptual.lpips_imagenet()
    images, others = draw_images(2), draw_images(2, seed=1)
    expected = [[distance.model(one[None], other[None]).item() for other in others] for one in images]
    assert torch.allclose(distance(images, others), torch.tensor(expected), rtol=1e-4)
    assert torch.equal(distance.model.net.slice5[-2].weight, trunk[10].weight)
    assert distance.model.lins[0].model[-1].weight.min() >= 0  # the learned heads, not random ones


def test_missing_imagenet_trunk_is_absent_and_says_which_file_goes_where(imagenet_file):
    with pytest.raises(interfaces.AbsentError) as caught:
        perceptual.lpips_imagenet()
    assert "alexnet-owt-7be5be79.pth" in str(caught.value)
    assert str(imagenet_file.parent) in str(caught.value)
    assert "GANINV_OFFLINE" in str(caught.value)


def test_wrong_imagenet_file_is_not_read(imagenet_file):
    imagenet_file.parent.mkdir(parents=True)
    imagenet_file.write_bytes(b"something else")
    with pytest.raises(interfaces.AbsentError, match="expected SHA-256 7be5be79.* remove the file"):
        perceptual.lpips_imagenet()


def serve(monkeypatch, file):
    """Lets the download read a local file instead."""
    monkeypatch.setattr(perceptual.urllib.request, "urlopen", lambda url, timeout: file.open("rb"))
    return torchvision.models.AlexNet_Weights.IMAGENET1K_V1.url


def test_download_lands_under_its_name_only_when_whole(imagenet_file, tmp_path, monkeypatch, capsys):
    served = tmp_path / "served"
    served.write_bytes(b"trunk")
    assert serve(monkeypatch, served).endswith(perceptual.TRUNK_FILE)  # what torchvision calls these weights
    monkeypatch.delenv("GANINV_OFFLINE")
    with pytest.raises(interfaces.AbsentError, match="the downloaded file is broken"):
        perceptual.find_trunk_file()
    assert list(imagenet_file.parent.iterdir()) == []
    monkeypatch.setattr(perceptual, "TRUNK_SHA256", hashlib.sha256(b"trunk").hexdigest())
    assert perceptual.find_trunk_file() == imagenet_file
    assert imagenet_file.read_bytes() == b"trunk"
    assert list(imagenet_file.parent.iterdir()) == [imagenet_file]


def test_no_network_is_absent(imagenet_file, tmp_path, monkeypatch):
    serve(monkeypatch, tmp_path / "unreachable")
    monkeypatch.delenv("GANINV_OFFLINE")
    with pytest.raises(interfaces.AbsentError, match="cannot download it .* copy it there"):
        perceptual.lpips_imagenet()


def test_a_server_that_cannot_be_reached_is_waited_for_once_a_minute(imagenet_file, monkeypatch):
    asked, now = [], [100.0]

    def refuse(url, timeout):
        asked.append(now[0])
        raise urllib.error.URLError("no route")

    monkeypatch.setattr(perceptual.urllib.request, "urlopen", refuse)
    monkeypatch.setattr(perceptual.time, "monotonic", lambda: now[0])
    monkeypatch.delenv("GANINV_OFFLINE")
    for now[0] in (100.0, 110.0, 159.0, 161.0, 200.0):
        with pytest.raises(interfaces.AbsentError, match="no route"):
            perceptual.find_trunk_file()
    assert asked == [100.0, 161.0]


@pytest.mark.parametrize("spoil", ["missing", "shape", "extra"])
def test_a_trunk_of_another_network_is_refused_by_name(trunk, tmp_path, spoil):
    tensors = {f"backbone.0.{name}": tensor.clone() for name, tensor in trunk.state_dict().items()}
    if spoil == "missing":
        del tensors["backbone.0.3.bias"]
    else:
        tensors["backbone.0.3.bias" if spoil == "shape" else "backbone.0.12.bias"] = torch.zeros(7)
    save_file(tensors, tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match=r"AlexNet features in .*other.safetensors, got others for \['(3|12).bias'\]"):
        perceptual.lpips_face(tmp_path / "other.safetensors")


def test_missing_face_trunk_is_the_callers_mistake(tmp_path):
    with pytest.raises(ValueError, match="nowhere.safetensors"):
        perceptual.lpips_face(tmp_path / "nowhere.safetensors")


def test_sizes_and_ranges_are_checked(face):
    assert face(draw_images(1, 31), draw_images(1, 31)).shape == (1, 1)
    with pytest.raises(interfaces.AbsentError, match="at least 31 px .* got 30x30"):
        face(draw_images(1, 30), draw_images(1, 30))
    with pytest.raises(ValueError, match="images of one size"):
        face(draw_images(1, 40), draw_images(1, 48))
    with pytest.raises(ValueError, match=r"in \[-1,1\]"):
        face(draw_images(1) * 255, draw_images(1))
    with pytest.raises(ValueError, match="at least one image to compare with"):
        face.nearest(draw_images(1), draw_images(0))
