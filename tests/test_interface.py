"""The Python interface: every public name is there, loads late, is documented, and its examples run."""

from __future__ import annotations

import doctest
import importlib
import subprocess
import sys
from dataclasses import replace

import pytest

import ganinv
from ganinv.attack.config import LATENT, MODERN, TEMPLATE
from ganinv.reports import report
from tests.toys import toy_world


@pytest.mark.parametrize("name", ganinv.HOMES)
def test_every_public_name_is_documented(name):
    value = getattr(ganinv, name)
    assert sorted(ganinv.HOMES) == ganinv.__all__ and value.__doc__ and value.__doc__[0] != " "


def test_the_package_itself_loads_nothing():
    code = "import sys, ganinv; ganinv.__all__; print(sorted({'torch', 'numpy', 'tyro'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_a_wrong_name_is_told():
    with pytest.raises(AttributeError, match="module 'ganinv' has no attribute 'attack_all'; it has load_world"):
        _ = ganinv.attack_all


@pytest.mark.parametrize("module", ["ganinv", "ganinv.attack.attacks", "ganinv.recognizers.wrapped", "ganinv.reports.report"])
def test_examples_run(module):
    found = doctest.testmod(importlib.import_module(module), optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
    assert found.attempted and not found.failed


def test_settings_of_parts_and_unknown_ones():
    attack = ganinv.LatentAttack(steps=3, optim={"lr": 0.1})
    assert attack.config.optim.lr == 0.1 and attack.config.optim.halve_at == LATENT.optim.halve_at
    assert repr(ganinv.PixelAttack("modern", steps=7)) == "PixelAttack(steps=7)"
    inversion = ganinv.LatentAttack(goal="template", restarts=2)
    assert inversion.config == replace(TEMPLATE, restarts=2) and repr(inversion) == "LatentAttack(restarts=2)"
    assert ganinv.PixelAttack("modern", goal="template").config == replace(MODERN, goal="template", tv=2.0, l2=0.004)
    with pytest.raises(ValueError, match="expected a setting of the attack, got restart; did you mean restarts"):
        ganinv.LatentAttack(restart=3)
    with pytest.raises(ValueError, match="expected a variant among gray-box, white-box, modern, got 'black'"):
        ganinv.PixelAttack("black")
    with pytest.raises(ValueError, match="expected start pictures for the variant white-box"):
        ganinv.PixelAttack("white-box")(toy_world()[1], [0])


def test_a_world_of_other_users_judges_nobody():
    prior, target, _ = toy_world()
    result = ganinv.LatentAttack(steps=1, candidates=4, restarts=1, final_transforms=1)(prior, target, [0, 1])
    world = ganinv.load_world("synthetic")
    with pytest.raises(ValueError, match="of the 100 users of the world synthetic, got one of .* others, .*prior="):
        ganinv.judge(result, target, world=world)
    report.check_users(world, world.target, [0, 99])
    for names, fits in (("000000", "000001"), True), (("Ada", "Bob"), False):  # the first of the world's, and others
        target.names, target.num_identities = names, 2
        if fits:
            report.check_users(world, target, [0, 1])
            continue
        with pytest.raises(ValueError, match="got one of 2 others"):
            report.check_users(world, target, [0, 1])


def test_what_is_no_list_is_told():
    prior, target, _ = toy_world()
    for identities in (3, ["Ada"]):
        with pytest.raises(ValueError, match="expected identities as numbers of users, such as .0, 1., got"):
            ganinv.LatentAttack(steps=1)(prior, target, identities)
    with pytest.raises(ValueError, match="expected a list of judges, got the text 'sface'; pass .'sface'."):
        ganinv.judge(None, target, judges="sface")


def test_both_attacks_find_the_pictures_of_a_toy_target():
    prior, target, known = toy_world()
    wanted = prior.synthesize(known[:, None].expand(-1, 2, -1))
    latent = ganinv.LatentAttack(
        objective="logit", steps=60, candidates=64, restarts=1, augment={"shift": 0.0, "degrees": 0.0, "flip": 0.0}
    )
    found = latent(prior, target, [2, 0])
    assert found.identities == (2, 0)
    assert (found.images[:, 0] - wanted[[2, 0]]).abs().mean() < 0.03
    rows = []
    pixel = ganinv.PixelAttack(steps=5)(target, [1], resolution=8, on_step=rows.append)
    assert pixel.images.shape == (1, 1, 3, 8, 8) and rows[0]["step"] == 0
    assert target(pixel.images[:, 0]).logits.argmax(1).tolist() == [1]
