"""What a target answered, written down: who begins again is answered from there, and asks nothing twice."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence

import torch

from ganinv import images as image_convention
from ganinv.attack.access import TargetAccess
from ganinv.interfaces import Recognition, require

DIGEST = 16  # bytes that stand for a picture


class Transcript:
    """An access (interfaces.Access) whose answers of the scores and decisions of some users are kept.

    kept: what get_state gave in an earlier call; pictures that are in there, as 8-bit files hold them and asked for the same
    user, are answered from it, each as often as it was asked, and are no query. on_answer() is called after every answer of
    the target, before anybody reads it.
    """

    def __init__(
        self, access: TargetAccess, users: Sequence[int], kept: Mapping | None = None, on_answer: Callable = lambda: None
    ):
        self.access, self.users, self.on_answer = access, list(users), on_answer
        self.rung, self.queries, self.options, self.metric = access.rung, access.queries, access.options, access.metric
        self.num_identities, self.embedding_dim, self.claims = access.num_identities, access.embedding_dim, access.claims
        self.keys, self.answers = [], []  # tensors of the calls so far: [n,DIGEST] and what pack gave
        self.known: dict[bytes, list[torch.Tensor]] = {}
        if kept and len(kept["keys"]):
            self.keys, self.answers = [kept["keys"]], [kept["answers"]]
            for key, answer in zip(kept["keys"], kept["answers"], strict=True):
                self.known.setdefault(key.numpy().tobytes(), []).append(answer)

    def __call__(self, images: torch.Tensor, identities: torch.Tensor | None = None) -> Recognition:
        """Returns what may be seen of images [N,3,H,W]: logits alone. See TargetAccess for what it raises."""
        keys = digest(images, identities)
        found = [self.known[key].pop(0) if self.known.get(key) else None for key in keys]
        new = [row for row, answer in enumerate(found) if answer is None]
        if new:
            asked = None if identities is None else identities[new]
            fresh = self.pack(require(self.access(images[new], asked), "logits"))
            self.keys.append(torch.tensor([list(keys[row]) for row in new], dtype=torch.uint8))
            self.answers.append(fresh)
            self.on_answer()
            for row, answer in zip(new, fresh, strict=True):
                found[row] = answer
        return Recognition(None, self.unpack(torch.stack(found)).to(images.device))

    def pack(self, logits: torch.Tensor) -> torch.Tensor:
        """Returns of answers [n,C] whom each names [n], -1 for nobody; of scores those of the users [n,T]."""
        if self.rung == "decisions":
            best, named = logits.max(1)
            return torch.where(best.exp() > 0.5, named, -1).cpu()
        return logits[:, self.users].cpu()

    def unpack(self, answers: torch.Tensor) -> torch.Tensor:
        """Returns the answers [n,C] that pack was given; NaN for users who are not among those of interest."""
        if self.rung == "decisions":
            named = (answers[:, None] == torch.arange(self.num_identities)).float()
            return named.clamp_min(torch.finfo(named.dtype).tiny).log()
        return answers.new_full((len(answers), self.num_identities), torch.nan).index_copy(
            1, torch.tensor(self.users), answers
        )

    def get_state(self) -> dict:
        """Returns what was answered so far, {"keys" [M,DIGEST], "answers" [M] or [M,T]}."""
        keys = torch.cat(self.keys) if self.keys else torch.zeros(0, DIGEST, dtype=torch.uint8)
        return {"keys": keys, "answers": torch.cat(self.answers) if self.answers else torch.zeros(0)}


def digest(images: torch.Tensor, identities: torch.Tensor | None) -> list[bytes]:
    """Returns what stands for each picture [N,3,H,W] as an 8-bit file holds it, and for whom it is asked."""
    users = [None] * len(images) if identities is None else identities.tolist()
    pixels = image_convention.to_uint8(images.detach()).cpu().contiguous().numpy()
    return [
        hashlib.sha256(f"{user} ".encode() + picture.tobytes()).digest()[:DIGEST]
        for user, picture in zip(users, pixels, strict=True)
    ]
