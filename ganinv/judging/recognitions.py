"""What recognizers see: pictures as they are and changed, each distinct one looked at once."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch

from ganinv import images as image_convention
from ganinv.interfaces import AbsentError, Recognition, Recognizer
from ganinv.judging.robustness import MILD, PROJECTION, Change, count_together
from ganinv.judging.work import LOOKED, PROJECT, Work


class RecognitionCache:
    """What recognizers say of pictures [N,3,R,R] and of their changes, found for all together and once for each picture.

    Controls show reconstructions again, for other users; a batch of all is faster than one a control.
    """

    def __init__(self, images: torch.Tensor, changes: Mapping[str, Change] = MILD, work: Work | None = None):
        self.work = work or Work()
        keys = [image_convention.digest(image) for image in images]
        self.rows = {key: row for row, key in enumerate(dict.fromkeys(keys))}
        self.images = {"": images[[keys.index(key) for key in self.rows]]}
        self.changes = changes
        self.found: dict[object, Sequence[torch.Tensor | None]] = {}

    def __call__(self, recognizer: Recognizer, images: torch.Tensor, change: str = "") -> Recognition:
        """Returns the recognition of images that are among the pictures, after a change. Raises: see changed."""

        def find(pictures: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
            seen = self.work.see(recognizer, pictures)
            return seen.embeddings, seen.logits

        return Recognition(*self.pick((id(recognizer), change), find, images, change))

    def look(self, name: str, measure: Callable[[torch.Tensor], torch.Tensor], images: torch.Tensor) -> torch.Tensor:
        """Returns measure(images) [N] of images that are among the pictures; name: of the measure."""

        def find(pictures: torch.Tensor) -> tuple[torch.Tensor]:
            known = name in self.work.functions
            return (torch.cat(self.work.over(name, pictures, LOOKED)) if known else measure(pictures),)

        return self.pick(name, find, images)[0]

    def change_size(self, images: torch.Tensor, change: str) -> torch.Tensor:
        """Returns [N], the root mean square by which a change moves pixels, in [0,2]. Raises: see changed."""

        def measure(changed: torch.Tensor) -> tuple[torch.Tensor]:
            before = image_convention.resize(self.images[""], tuple(changed.shape[-2:]))
            return ((changed - before).square().mean((1, 2, 3)).sqrt(),)

        return self.pick(f"{change} size", measure, images, change)[0].cpu()

    def pick(self, key, find: Callable, images: torch.Tensor, change: str = "") -> list[torch.Tensor | None]:
        """Returns the rows of `images` in what find says of all pictures after a change; asked once a key."""
        if key not in self.found:
            self.found[key] = find(self.changed(change))
        rows = [self.rows[image_convention.digest(image)] for image in images]
        return [None if column is None else column[rows] for column in self.found[key]]

    def changed(self, change: str) -> torch.Tensor:
        """Returns all pictures after a change. Raises: AbsentError for a projection where there is no prior."""
        if change not in self.images:
            if change not in self.changes:
                raise AbsentError("needs a prior to project pictures through; this world has none")
            plain = self.images[""]
            spread = change == PROJECTION and PROJECT in self.work.functions
            parts = self.work.over(PROJECT, plain, count_together(plain)) if spread else [self.changes[change](plain)]
            self.images[change] = torch.cat(parts)
        return self.images[change]


See = Callable[[str], Recognition | None]  # a change's name -> what one judge sees
