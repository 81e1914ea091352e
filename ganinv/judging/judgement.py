"""All that the judges say of a run, in one hand."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch

from ganinv.errors import Absent
from ganinv.judging.attributes import Attributes
from ganinv.judging.leak import Leak, Selection
from ganinv.judging.success import SuccessRates
from ganinv.judging.verdict import Verdict

NOBODY = Absent("nobody judged")


@dataclass(frozen=True, kw_only=True)
class Judgement:
    """All that the judges say of a run: its verdict, beside what they say of controls and of the users' own photos.

    controls: name -> verdict on its pictures; ceiling: what the users' own photos reach, metric -> summary; judges: who
    they are, see independence.declare_judges; type_i: what the pictures were tested with; memorisation: see
    TrainingPhotos.describe; attributes: what is given away of users' attributes; factors: of rendered people, factor ->
    {"recovery", "ceiling"}; photos: identity -> image [3,R,R] to show, where nobody is real; means: likewise, of the mean of
    several samples, where it shows a face; seconds: that it took. leak, selection, success: the answers to the two
    questions, and success attack rates; Absent where nothing can be said.
    """

    verdict: Verdict
    leak: Leak | Absent = NOBODY
    selection: Selection | Absent = NOBODY
    success: SuccessRates | Absent = NOBODY
    attributes: Attributes | Absent = NOBODY
    controls: dict[str, Verdict] = field(default_factory=dict)
    ceiling: dict[str, dict] = field(default_factory=dict)
    judges: list[dict] = field(default_factory=list)
    type_i: dict = field(default_factory=dict)
    memorisation: dict = field(default_factory=dict)
    factors: dict[str, dict[str, float]] = field(default_factory=dict)
    photos: dict[int, torch.Tensor] = field(default_factory=dict)
    means: dict[int, torch.Tensor] = field(default_factory=dict)
    seconds: float = 0.0
