from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from ganinv import images
from ganinv.metrics.faces import detect_faces
from ganinv.priors.loading import load_generator
from ganinv.priors.rendered import RenderedPeople
from ganinv.rendered import camera
from ganinv.rendered.camera import CENTRE, FRAME
from ganinv.rendered.factors import FACTORS, PHOTO, WINDOW, draw_normals, draw_people, draw_photos, spread, uniform
from ganinv.rendered.march import pack
from ganinv.rendered.photos import make_photos, render

NAMES = [factor.name for factor in FACTORS]
PHOTO_NAMES = [factor.name for factor in PHOTO]
TABLE = {factor.name: factor for factor in FACTORS + PHOTO}
PLAIN = {"noise": 0.0, "blur": 0.0, "glasses": 0.0, "hair_length": 0.0, "background_blobs": 0.0}
# factor -> where a frontal picture may change: |x| from, to, y from, to; cm, the eyes at y 0
EYES, MOUTH, LOWER = (0.8, 5.8, -2.2, 2.2), (0, 4.5, -10.5, -4.8), (0, 9, -15, -2)
REGIONS = {
    "forehead_bulge": (0, 9, -1.0, 12),
    "jaw_width": (0, 9, -15, -0.5),
    "chin_length": LOWER,
    "chin_depth": LOWER,
    "chin_cleft": (0, 2.5, -13, -8),
    "cheekbones": (1.0, 9, -8.5, 2.5),
    "cheek_fullness": (0, 9, -13, 0.5),
    "brow_ridge": (0, 8, -1.5, 5.5),
    "eye_spacing": (0, 9, -4, 5.5),
    "eye_width": EYES,
    "eye_height": EYES,
    "eye_slant": EYES,
    "eye_depth": (0, 8.5, -5.0, 5.0),
    "eye_colour": EYES,
    "brow_height": (0, 9, -1.0, 5),
    "brow_thickness": (0.3, 6, 0.5, 4),
    "brow_arch": (0.3, 6, 0.5, 4),
    "brow_slant": (0.3, 6, 0.5, 4),
    "nose_length": (0, 5, -10, 1.5),
    "nose_width": (0, 4.5, -8.5, 3.5),
    "nose_bridge": (0, 4.5, -7, 3.5),
    "nose_tip": (0, 4.5, -9, -1),
    "mouth_height": (0, 6, -12, -3.5),
    "mouth_width": MOUTH,
    "upper_lip": MOUTH,
    "lower_lip": (0, 5, -12, -5.5),
    "lip_redness": MOUTH,
    "ear_size": (5.5, 11, -6.5, 4.5),
    "ear_angle": (5.0, 11, -6.5, 4.5),
    "neck_width": (0, 12, -16, -4),
    "freckles": (0, 8, -8.5, 2.5),
    "hair_line": (0, 11, -2.5, 12),
    "hair_parting": (0, 11, 3, 12),
    "hair_top": (0, 11, 2.5, 12),
    "smile": (0, 8, -11, -2),
    "mouth_open": (0, 5, -12, -4.8),
    "brow_raise": (0.3, 6, 0.5, 4),
    "eyelids": EYES,
    "gaze": EYES,
}


def person(**changes: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns the factors [1,F] and a plain frontal photo [1,P] of the mean person, with some numbers changed."""
    values = {name: factor.mean for name, factor in TABLE.items()} | PLAIN | changes
    return torch.tensor([[values[name] for name in NAMES]]), torch.tensor([[values[name] for name in PHOTO_NAMES]])


@torch.no_grad()
def render_person(resolution: int = 64, **changes: float) -> torch.Tensor:
    """Returns the image [1,3,R,R] of person(**changes)."""
    return render(*person(**changes), resolution)


def place(resolution: int = 64) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns x [1,R] and y [R,1], cm, of a picture's columns and rows."""
    centre = ((torch.arange(resolution) + 0.5) / resolution - 0.5) * FRAME
    return centre[None], CENTRE - centre[:, None]


# ---- seeds


def test_there_are_thirty_factors_with_names_units_and_sound_ranges():
    assert len(FACTORS) >= 30 and len(TABLE) == len(FACTORS) + len(PHOTO)
    for factor in TABLE.values():
        assert factor.low <= factor.mean <= factor.high and factor.spread > 0 and factor.unit and factor.does


def test_a_person_depends_on_the_seed_alone():
    together = draw_people([4, 9, 2**48 - 1])
    assert torch.equal(together[1:2], draw_people([9])) and not torch.equal(together[0], together[1])
    photos = draw_photos([4, 4, 9], [0, 1, 0])
    assert torch.equal(photos[1:2], draw_photos([4], [1])) and not torch.equal(photos[0], photos[2])


def test_draws_fill_their_window_and_stay_in_it():
    drawn = draw_people(range(1500)).double()
    for column, factor in zip(drawn.T, FACTORS, strict=True):
        first = max(factor.low, factor.mean - WINDOW * factor.spread)
        last = min(factor.high, factor.mean + WINDOW * factor.spread)
        assert first - 1e-5 <= column.min() < first + 0.2 * (last - first), factor.name
        assert last - 0.2 * (last - first) < column.max() <= last + 1e-5, factor.name
    tone = drawn[:, NAMES.index("skin_tone")]
    assert (torch.histc(tone, 10, 0, 1) > 90).all()  # every decile of the range, of 150 if it were even


def test_spread_turns_quantiles_into_quantiles():
    even = (uniform("even", "1", 2.0, 6.0, ""),)  # cut at a half spread to both sides
    z = torch.tensor([[-6.0], [-0.5], [0.0], [6.0]], dtype=torch.float64)
    values = spread(z, even)[:, 0]
    torch.testing.assert_close(values[[0, 2, 3]], torch.tensor([2.0, 4.0, 6.0]).double(), atol=1e-5, rtol=0)
    normal = torch.distributions.Normal(4.0, 4.0)
    share = (normal.cdf(values[1]) - normal.cdf(torch.tensor(2.0))) / (
        normal.cdf(torch.tensor(6.0)) - normal.cdf(torch.tensor(2.0))
    )
    assert share.item() == pytest.approx(0.3085375, abs=1e-5)  # of a standard normal below -0.5


def test_a_shift_moves_means_and_ranges_by_so_many_spreads():
    plain, moved = draw_people(range(50)), draw_people(range(50), shift=0.5)
    for name in ("head_width", "nose_length", "mouth_height"):  # their windows stay within the support
        factor, column = TABLE[name], NAMES.index(name)
        torch.testing.assert_close(moved[:, column] - plain[:, column], torch.full((50,), 0.5 * factor.spread))
    for column, factor in zip(moved.T, FACTORS, strict=True):
        assert factor.low <= column.min() and column.max() <= factor.high


# ---- pictures


@torch.no_grad()
def test_a_picture_does_not_depend_on_its_neighbours():
    factors, photos = draw_people(range(5)), draw_photos(range(5), [7] * 5)
    together = render(factors, photos)
    images.check(together)
    assert together.shape == (5, 3, 64, 64) and together.dtype == torch.float32
    for row in (0, 3, 4):
        alone = render(factors[row : row + 1], photos[row : row + 1])
        torch.testing.assert_close(alone[0], together[row], atol=1e-6, rtol=0)
    assert (together[0] - together[1]).abs().mean() > 0.1


def test_photos_are_rendered_person_after_person():
    photos = make_photos([8, 5], range(3, 5))
    assert photos.names == ("000008", "000005") and photos.person.tolist() == [0, 0, 1, 1]
    assert photos.files[3] == "000005/004.png" and photos.pixels.dtype == torch.uint8
    with torch.no_grad():
        expected = render(draw_people([5]), draw_photos([5], [4]))
    assert torch.equal(photos.pixels[3:], images.to_uint8(expected))


def test_a_large_picture_shows_what_a_small_one_does():
    small, large = render_person(64), render_person(128)
    assert large.shape == (1, 3, 128, 128)
    assert (F.avg_pool2d(large, 2) - small).abs().mean() < 0.01


@pytest.fixture(scope="module")
def mean_picture():
    return render_person()


@pytest.mark.parametrize("name", REGIONS)
def test_a_factor_changes_what_it_names_and_nothing_far_away(name, mean_picture):
    high = TABLE[name].mean + WINDOW * TABLE[name].spread
    change = (render_person(**{name: min(high, TABLE[name].high)}) - mean_picture).abs().sum(1)[0]
    x, y = place()
    left, right, bottom, top = REGIONS[name]
    inside = (x.abs() >= left) & (x.abs() <= right) & (y >= bottom) & (y <= top)
    assert change[inside].max() > 0.04
    assert change[~inside].max() < 0.06 and change[~inside].sum() < 0.05 * change.sum()


def test_colours_do_what_they_say():
    x, y = place()
    cheek = ((x.abs() > 3) & (x.abs() < 5) & (y > -5) & (y < -3))[None, None]
    top = ((x.abs() < 4) & (y > 9.5))[None, None]

    def mean(region, **changes):
        return render_person(**changes).mean(1, keepdim=True)[region].mean()

    tones = [mean(cheek, skin_tone=tone) for tone in (0.0, 0.25, 0.5, 0.75, 1.0)]
    assert all(light - dark > 0.1 for light, dark in zip(tones, tones[1:], strict=False))
    assert mean(top, hair_darkness=0.0) - mean(top, hair_darkness=1.0) > 0.4
    assert mean(top, hair_darkness=1.0, hair_grey=0.6) - mean(top, hair_darkness=1.0) > 0.1
    assert mean(cheek, exposure=0.5) - mean(cheek, exposure=-0.5) > 0.2


def test_light_and_turns_are_those_of_three_dimensions():
    for azimuth in (-50.0, 50.0):
        face = render_person(light_azimuth=azimuth, ambient=0.4).mean(1)[0, 25:50]
        right_brighter = face[:, 38:46].mean() - face[:, 18:26].mean()
        assert right_brighter * azimuth / 50 > 0.1  # the cheek towards the light
    # symmetric people turned left and right, lit from the front, are mirror images
    symmetric = {"hair_parting": 6.0, "mole_size": 0.0, "freckles": 0.0, "background_x": 0.0, "hair_curl": 0.0}
    one, two = (render_person(yaw=yaw, light_azimuth=0.0, **symmetric) for yaw in (-25.0, 25.0))
    face = (slice(None), slice(None), slice(25, 50))
    assert (one[face].flip(3) - two[face]).abs().mean() < 0.02 < (one[face] - two[face]).abs().mean()


SMOOTH = (
    "chin_depth", "nose_tip", "eye_depth", "eye_width", "mouth_width", "skin_tone", "smile", "light_azimuth",
    "light_elevation", "blur",
)  # fmt: skip


def test_gradients_are_those_of_finite_differences():
    # weights that vary slowly over the picture, so that the sum has few kinks
    weights = F.interpolate(torch.randn(1, 3, 5, 5, generator=torch.Generator().manual_seed(1)), 64, mode="bicubic").double()
    factors, photo = draw_people([0]).double(), draw_photos([0], [0]).double()
    numbers = torch.cat([factors, photo], 1).requires_grad_()

    def total(rows):
        return (render(*rows.split((len(NAMES), len(PHOTO_NAMES)), 1)) * weights).sum((1, 2, 3))

    (gradient,) = torch.autograd.grad(total(numbers).sum(), numbers)
    assert gradient.isfinite().all()
    steps = torch.zeros(len(SMOOTH), numbers.shape[1], dtype=torch.float64)
    columns = [(NAMES + PHOTO_NAMES).index(name) for name in SMOOTH]
    for row, (name, column) in enumerate(zip(SMOOTH, columns, strict=True)):
        steps[row, column] = 1e-3 * TABLE[name].spread
    with torch.no_grad():
        difference = (total(numbers + steps) - total(numbers - steps)) / 2
    expected = (gradient[0] * steps).sum(1)
    torch.testing.assert_close(difference, expected, rtol=0.03, atol=2e-6)


def test_a_face_detector_finds_people_who_do_not_exist():
    pytest.importorskip("facenet_pytorch")
    photos = make_photos(range(300, 308), 1)
    assert (detect_faces(photos.images()) >= 0.9).float().mean() > 0.85


# ---- bad input


@pytest.mark.parametrize("seed", [-1, 2**48, 1.5, True, "3"])
def test_a_seed_out_of_range_is_refused(seed):
    with pytest.raises(ValueError, match=r"expected a person seed of 0 to \d+, got"):
        draw_people([seed])
    with pytest.raises(ValueError, match=r"expected a photo seed of 0 to \d+, got"):
        draw_photos([1], [seed])


@pytest.mark.parametrize("resolution", [56, 68, 100, 264, 64.0])
def test_a_size_that_is_not_divisible_by_8_is_refused(resolution):
    with pytest.raises(ValueError, match=r"multiple of 8, got"):
        render(*person(), resolution)
    with pytest.raises(ValueError, match=r"multiple of 8, got"):
        make_photos([1], 1, resolution)
    with pytest.raises(ValueError, match=r"multiple of 8, got"):
        RenderedPeople(resolution)


@pytest.mark.parametrize("shift", [3.0, -0.5, float("nan")])
def test_a_shift_outside_the_support_is_refused(shift):
    with pytest.raises(ValueError, match="expected a shift of"):
        draw_people([1], shift)


def test_what_does_not_fit_together_is_refused():
    factors, photo = person()
    with pytest.raises(ValueError, match=r"expected factors \[N,\d+\] and photo parameters"):
        render(factors, photo[:, 1:])
    with pytest.raises(ValueError, match="one photo seed a person"):
        draw_photos([1, 2], [1])
    with pytest.raises(ValueError, match="at least one person and photo"):
        make_photos([1], 0)


# ---- the renderer as a prior


def test_the_prior_of_people_keeps_the_convention():
    prior = load_generator("people", "cpu")
    assert (prior.z_dim, prior.w_dim, prior.num_ws, prior.resolution) == (len(TABLE), len(TABLE), 1, 64)
    z = torch.randn(3, prior.z_dim, generator=torch.Generator().manual_seed(0))
    w = prior.map(z).requires_grad_()
    assert w.shape == (3, 1, prior.w_dim) and torch.equal(prior.map(z, 0.5), w / 2)
    pictures = prior.synthesize(w)
    images.check(pictures)
    pictures[1].sum().backward()
    assert w.grad[1].abs().count_nonzero() > 0.9 * prior.w_dim and w.grad[[0, 2]].abs().max() == 0
    with torch.no_grad():
        torch.testing.assert_close(prior.synthesize(w[1:2]), pictures[1:2].detach(), atol=1e-6, rtol=0)


@torch.no_grad()
def test_the_prior_holds_everyone_and_nobody_outside_the_ranges():
    prior = RenderedPeople()
    factors = prior.factors(100 * torch.randn(20, 1, prior.w_dim, generator=torch.Generator().manual_seed(0)))
    for column, factor in zip(factors.T, FACTORS, strict=True):
        assert factor.low <= column.min() and column.max() <= factor.high
    z = torch.cat([draw_normals([("person", 6)], len(NAMES)), draw_normals([("photo", 6, 2)], len(PHOTO_NAMES))], 1)
    assert torch.equal(images.to_uint8(prior.synthesize(prior.map(z))), make_photos([6], [2]).pixels)
    with pytest.raises(ValueError, match=r"expected w of shape \[N,1,\d+\], got \[2, 16\]"):
        prior.synthesize(torch.zeros(2, 16))


# ---- the search along rays


def test_places_are_packed_row_by_row():
    wanted = torch.tensor([[False, True, True, False], [True, False, False, False], [False] * 4])
    index, true = pack(wanted)
    assert index.tolist() == [[1, 2], [0, 0], [0, 0]] and true.tolist() == [[True, True], [True, False], [False, False]]


@torch.no_grad()
def test_what_is_left_behind_changes_no_picture(monkeypatch):
    factors, photos = draw_people(range(70, 74)), draw_photos(range(70, 74), range(4))
    quick = render(factors, photos)
    # every ray of every pixel is searched to the last step, painted and lit
    monkeypatch.setattr(camera, "is_settled", lambda part, edge: torch.zeros_like(part.hit))
    for name, value in (("BEHIND", 1e9), ("CLEAR", 1e9), ("BARELY", 1e9)):
        monkeypatch.setattr(camera, name, value)
    assert torch.equal(quick, render(factors, photos))
    monkeypatch.setattr(camera, "BARELY", -30.0)  # pixels that show a body are left out
    assert (quick - render(factors, photos)).abs().max() > 0.1
