"""Files of InsightFace (ONNX) and EdgeFace (a state dict) that a user has, on the chip that ArcFace's template cuts.

    insightface:FILE.onnx    edgeface:FILE.pt

Neither comes with a package, so no file of theirs is pinned here; what their publishers ask of users is with them.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from ganinv.interfaces import Recognition
from ganinv.recognizers import exported, onnx_files
from ganinv.recognizers.callable import brief
from ganinv.recognizers.classifiers import load_into, unwrap
from ganinv.recognizers.preprocessing import FileCard, Preprocessing, draw_faces, read_file_card
from ganinv.recognizers.published.adapter import Facts, PublishedRecognizer
from ganinv.recognizers.published.frame import ARCFACE, WORLD, Frame
from ganinv.weights.files import read_tensors

INPUT = Preprocessing(size=112)  # RGB, (x - 127.5) / 127.5 of 0..255: images as they are
RAW = Preprocessing(size=112, range=(0.0, 255.0))  # of older files of InsightFace, whose graph itself subtracts and scales
EDGENEXT = {24: "edgenext_xx_small", 32: "edgenext_x_small", 48: "edgenext_small", 80: "edgenext_base"}  # by stem's filters
MOST_RANK = 4096


class FirstAnswer(nn.Module):
    """The embeddings alone of an exported program, which takes batches as it likes them."""

    def __init__(self, program: exported.Program):
        super().__init__()
        self.recognize = exported.ExportedRecognizer(program, FileCard(Preprocessing(), "embeddings"))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Returns features [N,D]."""
        return self.recognize(x)[0]


def subtracts(path: Path) -> bool:
    """Says whether an ONNX graph begins by subtracting and scaling, as InsightFace's own reader asks."""
    import onnx

    first = {node.op_type for node in onnx.load(str(path), load_external_data=False).graph.node[:8]}
    return {"Sub", "Mul"} <= first


def load_insightface(name: str, device: torch.device | str, *, frame: Frame = WORLD) -> PublishedRecognizer:
    """Returns a recognizer of InsightFace's ONNX file, such as w600k_r50.onnx: 112 px RGB, cosine.

    A card beside the file may say another preprocessing. Raises: ValueError, see onnx_files.read_onnx and check.
    """
    path = check_file(name, "insightface")
    program = exported.read_program(onnx_files.read_onnx, path, torch.device(device))
    default = RAW if subtracts(path) else INPUT
    preprocessing = read_file_card(path, default).preprocessing if path.with_suffix(".json").is_file() else default
    return check(FirstAnswer(program).to(device).eval(), preprocessing, path, device, frame)


def load_edgeface(name: str, device: torch.device | str, *, frame: Frame = WORLD) -> PublishedRecognizer:
    """Returns a recognizer of EdgeFace's state dict, such as edgeface_xs_gamma_06.pt: timm's EdgeNeXt, low-rank or not.

    Size and ranks are read off the file. Raises: ValueError when timm is missing, or names or shapes do not fit.
    Source: George et al. 2024, EdgeFace.
    """
    path = check_file(name, "edgeface")
    try:
        import timm
    except ImportError as error:
        raise ValueError(f"expected the package timm for edgeface:{path}, got none ({error}); pip install timm") from error
    tensors = unwrap(read_tensors(path)[0])
    stem, head = tensors.get("stem.0.weight"), tensors.get("head.fc.weight")
    if stem is None or head is None or head.ndim != 2 or stem.ndim != 4 or len(stem) not in EDGENEXT:
        raise ValueError(f"expected EdgeFace's tensors in {path}, got others; quantised files are not read")
    with torch.random.fork_rng(devices=[]):  # the first weights are drawn and replaced: leave the caller's draws alone
        network = timm.create_model(EDGENEXT[len(stem)], pretrained=False, num_classes=len(head))
        for layer, part in list(network.named_modules()):
            rank = tensors.get(f"{layer}.linear1.weight")
            if isinstance(part, nn.Linear) and rank is not None and rank.ndim == 2 and 0 < len(rank) <= MOST_RANK:
                network.set_submodule(layer, LowRank(part.in_features, part.out_features, len(rank), part.bias is not None))
    return check(load_into(network, tensors, path).to(device).eval(), INPUT, path, device, frame)


class LowRank(nn.Module):
    """A linear layer as the product of two thin ones."""

    def __init__(self, inputs: int, outputs: int, rank: int, bias: bool):
        super().__init__()
        self.linear1, self.linear2 = nn.Linear(inputs, rank, bias=False), nn.Linear(rank, outputs, bias=bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Returns [...,outputs] of x [...,inputs]."""
        return self.linear2(self.linear1(x))


def check_file(name: str, kind: str) -> Path:
    """Returns the user's file. Raises: ValueError when there is none."""
    path = Path(name)
    if not path.is_file():
        raise ValueError(
            f"expected {kind}:FILE, got {name}, which is {'a folder' if path.is_dir() else 'missing'}; check the path"
        )
    return path


@torch.enable_grad()  # which an attack needs, whatever holds where the file is loaded
def check(
    network: nn.Module, preprocessing: Preprocessing, path: Path, device: torch.device | str, frame: Frame
) -> PublishedRecognizer:
    """Returns the recognizer once it answers drawn faces with embeddings [N,D] and a gradient.

    Raises: ValueError saying what came.
    """
    facts = Facts(
        name=path.name, metric="cosine", threshold=None, licence="its publishers'", training="what its publishers say",
        source="the user's file",
    )  # fmt: skip
    faces = draw_faces(2, 112).to(device).requires_grad_()
    try:
        features = network(preprocessing(faces))
    except Exception as error:  # whatever the graph's operators raise
        raise ValueError(f"expected {path} to take chips [N,3,112,112], got {brief(error)}") from error
    if not isinstance(features, torch.Tensor) or features.ndim != 2 or len(features) != 2:
        got = list(features.shape) if isinstance(features, torch.Tensor) else type(features).__name__
        raise ValueError(f"expected embeddings [N,D] from {path}, got {got}")
    exported.check_gradient(Recognition(features, None), faces, path)
    return PublishedRecognizer(
        network, facts, preprocessing, embedding_dim=features.shape[1], chip=ARCFACE, frame=frame, beyond="black"
    )
