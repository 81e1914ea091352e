"""What is measured, by name: each measure times its sides in turn and yields rows of one form.

A row: {"what", "unit", "against", "times": {side: Spread}, "ratios": {side: Spread}, "notes": {...}}, where a ratio is how
many times faster a side is than `against`, round by round.
"""

from __future__ import annotations

from ganinv.studies.benchmark.growth import measure_growth, measure_profile
from ganinv.studies.benchmark.loops import measure_loop, measure_pixels
from ganinv.studies.benchmark.steps import measure_selection, measure_steps
from ganinv.studies.benchmark.training import measure_training

MEASURES = {
    "steps": measure_steps,
    "selection": measure_selection,
    "loop": measure_loop,
    "pixels": measure_pixels,
    "training": measure_training,
    "growth": measure_growth,
    "profile": measure_profile,
}
