"""What an exported program's file says of its input is what it is fed: layout, kind of numbers, batch; or it is refused."""

from __future__ import annotations

import json

import pytest
import torch
from torch import nn

from ganinv.recognizers.loading import load_recognizer
from ganinv.recognizers.preprocessing import draw_faces

SIDE = 32


class Small(nn.Module):
    """A classifier of few numbers, whose answers differ where it is fed otherwise."""

    def __init__(self, *, last: bool = False, batch: int = -1):
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.conv, self.head = nn.Conv2d(3, 6, 3, 2), nn.Linear(6 * 15 * 15, 5)
        self.last, self.batch = last, batch

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.conv(x.permute(0, 3, 1, 2) if self.last else x).relu()
        return self.head(x.reshape(self.batch, 6 * 15 * 15))


def write_onnx(path, kind: str = "FLOAT", *, last: bool = False, declared: int | str = "n", batch: int = -1, opset: int = 13):
    """Writes Small as an ONNX graph whose input and weights are of a kind; of whole numbers it is scaled to [-1,1] first."""
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnx2torch")
    from onnx import TensorProto, helper, numpy_helper

    net, whole = Small(), kind.startswith(("INT", "UINT"))
    numbers = {"FLOAT16": torch.float16, "DOUBLE": torch.float64}.get(kind, torch.float32)
    weights = {name: value.detach().to(numbers).numpy() for name, value in net.state_dict().items()}
    weights |= {"half": torch.tensor(127.5).to(numbers).numpy(), "one": torch.tensor(1.0).to(numbers).numpy()}
    nodes, fed = [], "x"
    if last:
        nodes.append(helper.make_node("Transpose", [fed], [fed := "first"], perm=[0, 3, 1, 2]))
    if whole:
        nodes.append(helper.make_node("Cast", [fed], ["cast"], to=TensorProto.FLOAT))
        nodes += [helper.make_node("Div", ["cast", "half"], ["div"]), helper.make_node("Sub", ["div", "one"], [fed := "fed"])]
    shape = numpy_helper.from_array(torch.tensor([batch, 6 * 15 * 15]).numpy())
    nodes += [
        helper.make_node("Conv", [fed, "conv.weight", "conv.bias"], ["a"], strides=[2, 2]),
        helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("Constant", [], ["shape"], value=shape),  # as torch.onnx writes numbers
        helper.make_node("Reshape", ["b", "shape"], ["c"]),
        helper.make_node("Gemm", ["c", "head.weight", "head.bias"], ["y"], transB=1),
    ]
    sides = [SIDE, SIDE, 3] if last else [3, SIDE, SIDE]
    given, answer = getattr(TensorProto, kind), TensorProto.FLOAT if whole else getattr(TensorProto, kind)
    graph = helper.make_graph(
        nodes, "net", [helper.make_tensor_value_info("x", given, [declared, *sides])],
        [helper.make_tensor_value_info("y", answer, [declared, 5])],
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )  # fmt: skip
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=7), str(path))


def check_answers(path, **near) -> None:
    """A program without a card answers as the network does, for one picture and for several, and has gradients."""
    recognizer, images = load_recognizer(str(path), resolution=SIDE), draw_faces(3, SIDE).requires_grad_()
    exact = Small()(images)
    for count in (1, 3):
        torch.testing.assert_close(recognizer(images[:count]).logits, exact[:count], **near)
    ours, theirs = (torch.autograd.grad(x[:, 1].sum(), images)[0] for x in (recognizer(images).logits, exact))
    torch.testing.assert_close(ours, theirs, **near)


NEAR = {"atol": 2e-5, "rtol": 1e-4}
HALF = {"atol": 5e-3, "rtol": 1e-2}


@pytest.mark.parametrize(
    ("options", "near"),
    [
        ({"last": True}, NEAR),
        ({"kind": "UINT8"}, NEAR),
        ({"kind": "UINT8", "last": True, "declared": 1}, NEAR),
        ({"kind": "INT32"}, NEAR),
        ({"kind": "FLOAT16"}, HALF),
        ({"kind": "DOUBLE"}, NEAR),
        ({"declared": 1, "batch": 1}, NEAR),
        ({"batch": 1}, NEAR),  # any batch, it says, and takes one
        ({"opset": 7}, NEAR),
        ({"opset": 8}, NEAR),
    ],
)
def test_an_onnx_file_is_fed_what_it_asks_for(options, near, tmp_path):
    write_onnx(tmp_path / "a.onnx", **options)
    check_answers(tmp_path / "a.onnx", **near)


def test_an_onnx_file_that_divides_by_norms_is_read(tmp_path):
    """torch.onnx writes the least norm as a node of its own, which onnx2torch takes among the weights alone."""
    pytest.importorskip("onnx2torch")
    net = nn.Sequential(Small(), Normalize()).eval()
    options = {"input_names": ["x"], "dynamic_axes": {"x": {0: "n"}}, "opset_version": 13}
    torch.onnx.export(net, (torch.zeros(2, 3, SIDE, SIDE),), str(tmp_path / "a.onnx"), dynamo=False, **options)
    recognizer, images = load_recognizer(str(tmp_path / "a.onnx"), resolution=SIDE), draw_faces(2, SIDE)
    assert recognizer.num_identities is None  # of length 1, they are embeddings
    torch.testing.assert_close(recognizer(images).embeddings, net(images))


class Normalize(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return nn.functional.normalize(x)


@pytest.mark.parametrize(("last", "kind", "near"), [(True, torch.float32, NEAR), (False, torch.float16, HALF)])
def test_a_torch_export_program_is_fed_what_it_asks_for(last, kind, near, tmp_path):
    x = torch.zeros(2, SIDE, SIDE, 3) if last else torch.zeros(2, 3, SIDE, SIDE)
    torch.export.save(torch.export.export(Small(last=last).to(kind), (x.to(kind),)), tmp_path / "a.pt2")
    check_answers(tmp_path / "a.pt2", **near)


class OfBytes(Small):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x.float() / 127.5 - 1)


def test_a_torch_export_program_of_whole_numbers_has_no_gradient_and_is_refused(tmp_path):
    x = torch.zeros(2, 3, SIDE, SIDE, dtype=torch.uint8)
    torch.export.save(torch.export.export(OfBytes(), (x,)), tmp_path / "a.pt2")
    with pytest.raises(ValueError, match="expected a program of floating-point pictures, got one of torch.uint8"):
        load_recognizer(str(tmp_path / "a.pt2"), resolution=SIDE)


def test_a_card_says_the_layout_that_a_file_does_not(tmp_path, caplog):
    path = tmp_path / "a.torchscript"
    torch.jit.trace(Small(last=True, batch=1), torch.zeros(1, SIDE, SIDE, 3)).save(str(path))
    with pytest.raises(ValueError, match="say its size, channels and layout on a.json"):
        load_recognizer(str(path), resolution=SIDE)
    path.with_suffix(".json").write_text(json.dumps({"layout": "NHWC", "size": SIDE}))
    check_answers(path, **NEAR)
    path.with_suffix(".json").write_text(json.dumps({"layout": "HWC"}))
    with pytest.raises(ValueError, match="expected a layout among NCHW, NHWC, got 'HWC'"):
        load_recognizer(str(path), resolution=SIDE)


def test_a_card_that_says_nothing_of_what_a_network_is_fed_is_told_of(tmp_path, caplog):
    path = tmp_path / "a.onnx"
    write_onnx(path, "UINT8")
    path.with_suffix(".json").write_text(json.dumps({"sise": 112, "identities": list("abcde")}))
    load_recognizer(str(path), resolution=SIDE)
    assert "says nothing in a.json of what it is fed: it is fed pictures of size (32, 32), RGB in [0,255]" in caplog.text
