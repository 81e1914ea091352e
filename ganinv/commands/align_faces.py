"""Cut the faces out of photos: one sub-folder per person, to the same layout."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image

from ganinv import cli
from ganinv.commands.opening import open_named
from ganinv.engine.files import write_atomically
from ganinv.engine.progress import open_bar

Box = tuple[float, float, float, float]  # left, top, right, bottom
LISTED = 5  # files of a kind in the last line
FACE_SMALLEST = 20  # px: what MTCNN looks for; a smaller picture makes it crash
SIDE_MOST = 1600  # px to which larger photos are reduced before faces are looked for: time and memory grow with the area


@dataclass(frozen=True, kw_only=True)
class AlignFaces:
    """Cut the faces out of photos: one sub-folder per person, to the same layout.

    Example: --photos=my_photos --out=my_faces
    """

    photos: Path = Path("photos")  # folder with one sub-folder of photos per person
    out: Path = Path("faces")  # new or empty
    size: int = 160  # side of a face, in pixels
    margin: float = 0.2  # around the face, as a share of its longer side, both sides together
    device: str = "cpu"  # auto | cpu | cuda


@dataclass(frozen=True)
class Counts:
    """Files by what became of them, named person/file."""

    aligned: list[str] = field(default_factory=list)
    faceless: list[str] = field(default_factory=list)
    unreadable: list[str] = field(default_factory=list)


def run(config: AlignFaces) -> None:
    """Writes the faces and prints one line. Raises: ValueError for a bad folder or number, or when no photo has a face."""
    photos = list_photos(config.photos)
    if config.out.exists() and (not config.out.is_dir() or any(config.out.iterdir())):
        raise ValueError(f"expected --out to be new or empty, got {config.out}, which holds something; choose another")
    if config.out.resolve().is_relative_to(config.photos.resolve()):
        raise ValueError(f"expected --out outside --photos, got {config.out}; it would become a person of {config.photos}")
    from ganinv import images  # loads torch, as the detector does

    find_faces = make_detector(cli.choose_device(config.device))
    config.out.mkdir(parents=True, exist_ok=True)
    counts = Counts()
    for path in open_bar(photos, "photos"):
        name = f"{path.parent.name}/{path.name}"
        try:
            picture = images.open_picture(path)
        except ValueError:
            counts.unreadable.append(name)
            continue
        box = find_largest_face(picture, find_faces)
        if box is None:
            counts.faceless.append(name)
            continue
        save_face(cut_square(picture, box, config.size, config.margin), choose_target(config.out, path))
        counts.aligned.append(name)
    if not counts.aligned:
        config.out.rmdir()
        raise ValueError(
            f"expected a face in the photos of {config.photos}, got none in {len(photos)} files; {summarise(counts)}"
        )
    settings = {"size": config.size, "margin": config.margin, **vars(counts)}
    write_atomically(config.out / "align_faces.json", json.dumps(settings, indent=2) + "\n")
    print(f"{config.out}: {summarise(counts)}")


def list_photos(folder: Path) -> list[Path]:
    """Returns the files of every sub-folder, in order of name; hidden ones are passed over.

    Raises: ValueError when the folder is none, holds no sub-folder with a file, or one without.
    """
    if not folder.is_dir():
        raise ValueError(
            f"expected --photos to be a folder with one sub-folder per person, got {folder}, which is no folder"
            "; make FOLDER/PERSON/PHOTO and pass --photos=FOLDER"
        )
    people = sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    photos = {
        person: [path for path in sorted(person.iterdir()) if path.is_file() and not path.name.startswith(".")]
        for person in people
    }
    if not any(photos.values()):
        raise ValueError(f"expected photos in sub-folders of {folder}, one per person, got none; make FOLDER/PERSON/PHOTO")
    if empty := [person for person, files in photos.items() if not files]:  # whoever comes next would get their number
        raise ValueError(f"expected photos in {empty[0]}, got none; add some, or remove the folder")
    return [path for files in photos.values() for path in files]


def make_detector(device) -> Callable[[Image.Image], list[Box]]:
    """Returns a function of an RGB picture that finds the boxes of its faces, by MTCNN.

    Raises: ValueError when facenet-pytorch is missing.
    Source: Zhang et al. 2016, Joint Face Detection and Alignment using Multitask Cascaded Convolutional Networks.
    """
    try:
        from facenet_pytorch import MTCNN
    except ImportError as error:
        raise ValueError(f"expected facenet-pytorch, got none ({error}); pip install 'facenet-pytorch<2.6'") from error
    detector = MTCNN(keep_all=True, min_face_size=FACE_SMALLEST, device=device).eval()

    def find_faces(picture: Image.Image) -> list[Box]:
        boxes, _ = detector.detect(picture)  # one at a time: mixed sizes, or one without a face, fail in a batch
        return [] if boxes is None else [tuple(map(float, box)) for box in boxes]

    return find_faces


def find_largest_face(picture: Image.Image, find_faces: Callable[[Image.Image], list[Box]]) -> Box | None:
    """Returns the box of the largest face in the picture's own pixels, None where there is no face."""
    scale = min(1.0, SIDE_MOST / max(picture.size))
    reduced = picture.resize([max(1, round(side * scale)) for side in picture.size]) if scale < 1 else picture
    if min(reduced.size) <= FACE_SMALLEST:
        return None
    boxes = [box for box in find_faces(reduced) if box[2] > box[0] and box[3] > box[1]]
    if not boxes:
        return None
    largest = max(boxes, key=lambda box: (box[2] - box[0]) * (box[3] - box[1]))
    return tuple(edge / scale for edge in largest)


def cut_square(picture: Image.Image, box: Box, size: int, margin: float) -> Image.Image:
    """Returns the square about a box, `margin` larger than its longer side, at size x size.

    A square that would leave the picture is moved back into it, and no larger than the picture's shorter side.
    """
    left, top, right, bottom = box
    side = min(max(right - left, bottom - top) * (1 + margin), *picture.size)
    x = min(max((left + right - side) / 2, 0), picture.width - side)
    y = min(max((top + bottom - side) / 2, 0), picture.height - side)
    return picture.resize((size, size), Image.Resampling.LANCZOS, box=(x, y, x + side, y + side))


def choose_target(out: Path, photo: Path) -> Path:
    """Returns where a photo's face goes: a.png for a.jpg; a.jpeg.png where a.png is another photo's already."""
    target = out / photo.parent.name / f"{photo.stem}.png"
    return target if not target.exists() else target.with_name(f"{photo.name}.png")


def save_face(face: Image.Image, target: Path) -> None:
    """Writes a face as PNG, atomically."""
    target.parent.mkdir(exist_ok=True)
    temporary = target.with_suffix(".tmp")
    face.save(temporary, format="PNG")
    temporary.replace(target)


def summarise(counts: Counts) -> str:
    """Returns one line: how many faces, which photos had none or could not be read, and who is left out altogether."""

    def some(files: list[str]) -> str:
        more = f" and {len(files) - LISTED} more" if len(files) > LISTED else ""
        return f"{len(files)} ({', '.join(files[:LISTED])}{more})" if files else "0"

    line = f"{len(counts.aligned)} aligned, {some(counts.faceless)} without a face, {some(counts.unreadable)} unreadable"
    there = {name.partition("/")[0] for name in counts.aligned}
    lost = sorted({name.partition("/")[0] for name in counts.faceless + counts.unreadable} - there)
    return f"{line}; no face at all of {', '.join(lost)}, so no folder" if lost and there else line


def main() -> None:
    """Parses the command line and runs."""
    cli.main(AlignFaces, run, plan=open_named)


if __name__ == "__main__":
    main()
