"""private.html: a run's pictures beside the owner's own photos of the users. It stays where it is made.

Nothing else of a run holds a photograph of a real person. This file is written only when it is asked for (--private-photos),
is readable by its owner alone, is no part of the report, and goes to no service.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import torch

from ganinv.engine.files import clear_errors, to_bytes
from ganinv.photos import Photos
from ganinv.reports.page import embed, encode_image

NAME = "private.html"
MOST = 6  # photos of a user


def write_private(folder: Path, identities: list[int], photos: Photos, names: Mapping[str, str]) -> Path:
    """Returns private.html of a run folder that has its pictures, after writing it.

    photos: of the users, by their numbers; names: str(number) -> name, as far as users have names.
    """
    from jinja2 import Environment, StrictUndefined

    users = []
    for identity in identities:
        files = sorted((folder / "images").glob(f"{identity}_*.png"), key=lambda file: int(file.stem.split("_")[1]))
        own = photos.images(torch.where(photos.person == identity)[0][:MOST])
        users.append(
            {
                "identity": identity,
                "name": names.get(str(identity), ""),
                "made": [embed(file.read_bytes()) for file in files],
                "photos": [embed(encode_image(photo)) for photo in own],
            }
        )
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    template = environment.from_string(Path(__file__).with_suffix(".html").read_text(encoding="utf-8"))
    page, file = template.render(users=users), folder / NAME
    with clear_errors(folder):
        file.unlink(missing_ok=True)
        os.close(os.open(file, os.O_CREAT | os.O_WRONLY, 0o600))
        file.write_bytes(to_bytes(page))
    return file
