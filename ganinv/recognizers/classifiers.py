"""Classifiers of torchvision, timm and facenet-pytorch whose weights are a file of named tensors.

    torchvision:resnet18:FILE    timm:mobilenetv3_small_050:FILE    facenet:vggface2    facenet:casia-webface    facenet:FILE

FILE is .safetensors, .pt or .pth: a plain state dict, or one inside "state_dict", "model" or "module". The number of
identities is read off the last layer. Files are data: they are never unpickled beyond tensors, nothing is downloaded.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

from ganinv.engine.standins import import_torchvision
from ganinv.interfaces import Recognition
from ganinv.recognizers.gallery import Enrollable
from ganinv.recognizers.preprocessing import IMAGENET, Preprocessing, read_file_card
from ganinv.weights.files import check_tensors, read_tensors, sha256_file
from ganinv.weights.quoting import show

log = logging.getLogger(__name__)

WRAPPERS = ("state_dict", "model_state_dict", "model", "module")  # of trainers, Lightning and DataParallel
COUNTS = ("total_ops", "total_params")  # what a profiler leaves among the tensors
ODD_NUMBER = 997  # of identities, while the last layer is looked for: no inner layer is as wide


class ClassifierRecognizer(Enrollable, nn.Module):
    """A classifier as a recognizer: its logits, and as embedding what enters its last layer, at norm 1.

    head: name of the last layer, a Linear or a 1x1 Conv2d; None: the network's own output is the embedding.
    """

    def __init__(self, network: nn.Module, head: str | None, preprocessing: Preprocessing, *, embedding_dim: int = 0):
        super().__init__()
        self.network, self.head, self.preprocessing = network, head, preprocessing
        self.num_identities, self.embedding_dim = None, embedding_dim
        if head is not None:
            self.num_identities, self.embedding_dim = network.get_submodule(head).weight.shape[:2]

    def forward(self, images: torch.Tensor) -> Recognition:
        """Returns unit embeddings [N,D] and logits [N,C] or None of images [N,3,H,W] in [-1,1]."""
        x = self.preprocessing(images)
        if self.head is None:
            return Recognition(F.normalize(self.network(x).float(), dim=1), None)
        seen: list[torch.Tensor] = []
        hook = self.network.get_submodule(self.head).register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
        try:
            logits = self.network(x)
        finally:
            hook.remove()
        features = seen[0].flatten(2).mean(2) if seen[0].ndim == 4 else seen[0]  # SqueezeNet's last layer is a convolution
        return Recognition(F.normalize(features.float(), dim=1), logits)


def unwrap(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Returns the network's own tensors of a training checkpoint: without wrappers, and without what stands beside them."""
    while inner := next((w for w in WRAPPERS if any(name.startswith(f"{w}.") for name in tensors)), None):
        start = f"{inner}."
        tensors = {name.removeprefix(start): tensor for name, tensor in tensors.items() if name.startswith(start)}
    return {name: tensor for name, tensor in tensors.items() if name.rpartition(".")[2] not in COUNTS}


def find_prefix(tensors: dict[str, torch.Tensor], expected: Iterable[str]) -> str:
    """Returns the prefix that most of a network's own names have among a file's, "" for none.

    expected: the network's names, such as "conv1.weight" for "net.backbone.conv1.weight" or "_orig_mod.conv1.weight".
    """
    own = set(expected)
    found = Counter(
        name[: place + 1]
        for name in tensors
        for place in (-1, *(place for place, letter in enumerate(name) if letter == "."))
        if name[place + 1 :] in own
    )
    return min(found, key=lambda prefix: (-found[prefix], len(prefix)), default="")


def strip_prefix(tensors: dict[str, torch.Tensor], prefix: str, path: Path) -> dict[str, torch.Tensor]:
    """Returns the tensors below a prefix, by their names behind it; one that is stripped is logged."""
    if not prefix:
        return tensors
    log.warning("%s: its tensors are those below %s", path, show(prefix))
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def find_head(network: nn.Module) -> str:
    """Returns the name of the last layer of a network that was built for ODD_NUMBER identities.

    Raises: ValueError when no Linear or Conv2d has as many outputs.
    """
    layers = [(name, layer) for name, layer in network.named_modules() if isinstance(layer, nn.Linear | nn.Conv2d)]
    found = [name for name, layer in layers if layer.weight.shape[0] == ODD_NUMBER]
    if not found:
        raise ValueError(
            "expected a classifier whose last layer is a Linear or a Conv2d, got a network without"
            "; have it give (embeddings, logits) from code, file.py:factory"
        )
    return found[-1]


def load_into(network: nn.Module, tensors: dict[str, torch.Tensor], path: Path) -> nn.Module:
    """Returns the network with a file's tensors in it. Raises: ValueError unless all names and shapes fit."""
    expected = network.state_dict()
    # older files lack these counters, which recognition does not read
    counters = {name: value for name, value in expected.items() if name.endswith("num_batches_tracked")}
    network.load_state_dict(check_tensors({**counters, **tensors}, expected, path))
    return network


def fold_weight_norm(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Returns tensors with the weights that torch's weight_norm keeps as lengths and directions, in both of its forms."""
    forms = (("weight_g", "weight_v"), ("parametrizations.weight.original0", "parametrizations.weight.original1"))
    for length, direction in forms:
        for name in [name for name in tensors if name.endswith(f".{length}")]:
            layer = name.removesuffix(length)
            if (v := tensors.get(layer + direction)) is None:
                continue
            g = tensors.pop(name)
            over = [dim for dim in range(v.ndim) if g.ndim != v.ndim or g.shape[dim] == 1]
            tensors[f"{layer}weight"] = v / v.norm(dim=over, keepdim=True) * g
            del tensors[layer + direction]
    return tensors


def take_head(
    found: dict[str, torch.Tensor], prefix: str, network: nn.Module, head: str, path: Path
) -> dict[str, torch.Tensor]:
    """Returns a network's tensors with the last layer under its name, which had another one: "head.weight", "fc.1.weight".

    found: all of a file's; prefix: of the network's own. Raises: ValueError unless one alone reads what the last layer reads.
    """
    own = {f"{prefix}{name}" for name in network.state_dict()}
    width = network.get_submodule(head).weight.shape[1]
    others = [
        name for name, tensor in found.items() if name.endswith(".weight") and name not in own and tensor.ndim in (2, 4)
    ]
    fitting = [name.removesuffix("weight") for name in others if found[name].shape[1] == width]
    if len(fitting) != 1:
        raise ValueError(f"expected the last layer {head}.weight in {path}, got none; it is of another network")
    (place,) = fitting
    log.warning("%s: its last layer is %s", path, show(place.removesuffix(".")))
    kept = {name.removeprefix(prefix): tensor for name, tensor in found.items() if name in own}
    layer = {part: found[f"{place}{part}"] for part in ("weight", "bias") if f"{place}{part}" in found}
    return kept | {f"{head}.{part}": tensor for part, tensor in layer.items()}


def take_grey(network: nn.Module, tensors: dict[str, torch.Tensor], preprocessing: Preprocessing, path: Path) -> None:
    """Gives the network a first layer of one channel, in place, where a file's has one and the card says so.

    Raises: ValueError where the card does not say so.
    """
    name, layer = next(((name, one) for name, one in network.named_modules() if isinstance(one, nn.Conv2d)), ("", None))
    weight = tensors.get(f"{name}.weight")
    if layer is None or weight is None or weight.ndim != 4 or weight.shape[1] != 1 or layer.in_channels != 3:
        return
    if preprocessing.channels != "L":
        raise ValueError(
            f'expected a first layer of three channels in {path}, got one of one; say "channels": "L" on {path.stem}.json'
        )
    sizes = (layer.kernel_size, layer.stride, layer.padding, layer.dilation)
    network.set_submodule(name, nn.Conv2d(1, layer.out_channels, *sizes, bias=layer.bias is not None))


def resize_head(network: nn.Module, head: str, count: int, *, bias: bool) -> None:
    """Gives the network a last layer of so many identities, in place."""
    layer = network.get_submodule(head)
    bias = bias and layer.bias is not None
    if isinstance(layer, nn.Linear):
        network.set_submodule(head, nn.Linear(layer.in_features, count, bias=bias))
    else:
        network.set_submodule(head, nn.Conv2d(layer.in_channels, count, layer.kernel_size, layer.stride, bias=bias))


def load_classifier(
    build: Callable[[], nn.Module], path: Path, preprocessing: Preprocessing, odd: tuple[str, ...] = ()
) -> ClassifierRecognizer:
    """Returns the recognizer of a state dict. build: -> network of ODD_NUMBER identities; odd: starts of names to pass over.

    Raises: ValueError when the file is no state dict of this network.
    """
    found = fold_weight_norm(unwrap(read_tensors(path)[0]))
    found = {name: tensor for name, tensor in found.items() if not name.startswith(odd)} if odd else found
    with torch.random.fork_rng(devices=[]):  # the first weights are drawn and replaced: leave the caller's draws alone
        network = build()
        head = find_head(network)
        prefix = find_prefix(found, network.state_dict())
        tensors = strip_prefix(found, prefix, path)
        if f"{head}.weight" not in tensors:
            tensors = take_head(found, prefix, network, head, path)
        weight = tensors[f"{head}.weight"]
        if weight.ndim < 2:
            raise ValueError(f"expected the last layer {head}.weight in {path}, got another shape; it is of another network")
        resize_head(network, head, len(weight), bias=f"{head}.bias" in tensors)
        take_grey(network, tensors, preprocessing, path)
    return ClassifierRecognizer(load_into(network, tensors, path), head, preprocessing)


def load_torchvision(name: str, path: Path) -> ClassifierRecognizer:
    """Returns a torchvision classifier of a state dict; fed as ImageNet at 224 px unless its card says otherwise.

    Raises: ValueError for a name that torchvision lacks, and see load_classifier.
    """
    torchvision = import_torchvision()
    if name not in torchvision.models.list_models(module=torchvision.models):
        raise ValueError(
            f"expected a torchvision classifier such as resnet18, got {name}; see torchvision.models.list_models()"
        )
    # what helps the training of these two speaks in no recognition
    auxiliary = {"googlenet": ("aux1.", "aux2."), "inception_v3": ("AuxLogits.",)}.get(name, ())
    options = {"aux_logits": False, "init_weights": False} if auxiliary else {}

    def build() -> nn.Module:
        return torchvision.models.get_model(name, weights=None, num_classes=ODD_NUMBER, **options)

    default = replace(IMAGENET, size=299) if name == "inception_v3" else IMAGENET
    return load_classifier(build, path, read_file_card(path, default).preprocessing, auxiliary)


def load_timm(name: str, path: Path) -> ClassifierRecognizer:
    """Returns a timm classifier of a state dict; fed as timm says of that name unless its card says otherwise.

    Raises: ValueError when timm is missing, for a name that it lacks, and see load_classifier.
    """
    try:
        import timm
    except ImportError as error:
        raise ValueError(f"expected the package timm for timm:{name}, got none ({error}); pip install timm") from error
    if not timm.is_model(name):
        raise ValueError(f"expected a timm classifier such as mobilenetv3_small_050, got {name}; see timm.list_models()")
    said = timm.get_pretrained_cfg(name)
    default = Preprocessing(size=tuple(said.input_size[1:]), range=(0.0, 1.0), mean=said.mean, std=said.std)
    preprocessing = read_file_card(path, default).preprocessing

    def build() -> nn.Module:
        return timm.create_model(name, pretrained=False, num_classes=ODD_NUMBER)

    return load_classifier(build, path, preprocessing)


# ---- facenet-pytorch


@dataclass(frozen=True)
class Published:
    """A weight file that facenet-pytorch publishes. sha256: None where none is known."""

    file: str
    num_identities: int
    mebibytes: int
    sha256: str | None


PUBLISHED = {
    # the publisher gives no SHA-256; this one is that which several public projects pin for the published file
    "vggface2": Published(
        "20180402-114759-vggface2.pt", 8631, 107, "281cebca8662831adb987a874bdcb36e73f5b1c6dc5ee5878f305e985625d99b"
    ),
    "casia-webface": Published("20180408-102900-casia-webface.pt", 10575, 111, None),
}
FACENET = Preprocessing(size=160, range=(0.0, 255.0), mean=(127.5,) * 3, std=(128.0,) * 3)


def import_facenet():
    """Returns the module of facenet-pytorch's network. Raises: ValueError when the package is missing."""
    import_torchvision()
    try:
        import facenet_pytorch
    except ImportError as error:
        raise ValueError(f"expected facenet-pytorch, got none ({error}); pip install 'facenet-pytorch<2.6'") from error
    return facenet_pytorch.models.inception_resnet_v1


def find_facenet_file(name: str) -> Path:
    """Returns the weight file of facenet:name, which need not be there. Raises: ValueError when the package is missing."""
    if name not in PUBLISHED:
        return Path(name)
    return Path(import_facenet().get_torch_home(), "checkpoints", PUBLISHED[name].file)


def load_facenet(name: str) -> ClassifierRecognizer:
    """Returns an InceptionResnetV1 of facenet-pytorch: one of PUBLISHED, or the file of one that was trained further.

    160 px, (x*255-127.5)/128. A file without the layer `logits` gives an open-set recognizer. The published files are
    looked for where facenet-pytorch keeps them, $TORCH_HOME/checkpoints, and never downloaded.
    Raises: ValueError when the package or the file is missing, or the file is another.
    Source: Szegedy et al. 2016, Inception-v4; Schroff et al. 2015, FaceNet.
    """
    path, published = find_facenet_file(name), PUBLISHED.get(name)
    if published is None:
        if not path.is_file():
            raise ValueError(
                f"expected facenet:{', facenet:'.join(PUBLISHED)} or facenet:FILE, got {name}, which is no file"
                "; check the path"
            )
        preprocessing = read_file_card(path, FACENET).preprocessing if path.with_suffix(".json").is_file() else FACENET
    elif not path.is_file():
        raise ValueError(
            f"expected {published.file} (about {published.mebibytes} MiB) in {path.parent}, got none; nothing is downloaded: "
            "copy it there from the release v2.2.9 of github.com/timesler/facenet-pytorch"
        )
    else:
        preprocessing = FACENET
        if published.sha256 and (digest := sha256_file(path)) != published.sha256:
            raise ValueError(f"expected SHA-256 {published.sha256[:12]}... of {path}, got {digest[:12]}...; fetch it again")
    tensors = unwrap(read_tensors(path)[0])
    count = len(tensors["logits.weight"]) if "logits.weight" in tensors else None
    if published and count != published.num_identities:
        raise ValueError(f"expected {published.num_identities} identities in {path}, got {count}; fetch it again")
    with torch.random.fork_rng(devices=[]):
        network = import_facenet().InceptionResnetV1(classify=count is not None, num_classes=count)
    load_into(network, tensors, path)
    return ClassifierRecognizer(network, "logits" if count else None, preprocessing, embedding_dim=512)
