"""Complete worlds of random weights, made in about a second: six users, small networks that know nobody; of 32 px, or of
rendered people of 64 px."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from PIL import Image

from ganinv import images
from ganinv.photos import Photos
from ganinv.priors.stylegan2_pytorch import build_networks
from ganinv.priors.stylegan2_pytorch_files import save_prior
from ganinv.recognizers.cosine import CosineRecognizer
from ganinv.recognizers.loading import save_recognizer
from ganinv.worlds.references import References
from ganinv.worlds.truth import FactorRegressor, save_regressor
from ganinv.worlds.world import World, load_references, render_references

NAME = "tiny"
SIDE = 32  # the least that AlexNet's trunk can read is 31
USERS = 6  # acc_at_5 needs more than five
BRIEF = ["--steps=3", "--candidates=12", "--restarts=2", "--final-transforms=2", "--device=cpu", "--wandb=disabled"]


def write_people(folder: Path, count: int, photos: int = 3, side: int = SIDE, prefix: str = "p") -> None:
    """Writes `count` people with `photos` grey pictures each: a gradient of the person's own direction, and noise."""
    generator = torch.Generator().manual_seed(count)
    ramp = torch.linspace(-1, 1, side)
    for person in range(count):
        angle = torch.tensor(6.283 * person / count)
        gradient = 0.5 * (angle.cos() * ramp[None, :] + angle.sin() * ramp[:, None])
        (folder / f"{prefix}{person:02d}").mkdir(parents=True)
        for photo in range(photos):
            picture = gradient + 0.2 * torch.randn(side, side, generator=generator)
            images.save(picture.expand(3, -1, -1), folder / f"{prefix}{person:02d}" / f"{photo}.png")


def make_tiny_world(folder: Path) -> World:
    """Returns a world after writing all its files, and folder/photos with the users' pictures."""
    world = World(folder / "weights", resolution=SIDE, grey=True)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        mapping, synthesis = build_networks(SIDE, 4, w_dim=32, depth=2, fmap_max=32)
        weights = {f"SE.{name}": value for name, value in mapping.state_dict().items()}
        weights |= {f"GE.{name}": value for name, value in synthesis.state_dict().items()}
        save_prior(world.file("prior"), weights, {"role": "prior"})
        world = world.register("prior", world.file("prior"))
        for role, architecture, identities, side in (
            ("target", "squeezenet1_1", USERS, SIDE),
            ("judge", "squeezenet1_1", USERS, SIDE),
            ("verifier", "squeezenet1_1", 0, SIDE),
            ("lpips_face", "alexnet_trunk", 0, 64),  # as a recognizer it pools once more than as a distance
        ):
            model = CosineRecognizer(architecture, num_identities=identities, embedding_dim=16, input_size=side, scale=8.0)
            for name, parameter in model.named_parameters():
                if name.endswith("bias"):  # SqueezeNet starts without, and would say nothing of a mid-grey picture
                    torch.nn.init.normal_(parameter, std=0.1)
            world = add_recognizer(world, role, model)
    write_people(folder / "photos" / world.users, USERS, photos=4)
    Image.new("L", (SIDE, SIDE), 120).save(world.folder / "public_mean.png")
    return add_references(world, load_references(world, folder / "photos"))


def add_recognizer(world: World, role: str, model: CosineRecognizer) -> World:
    """Returns the world with a recognizer more, after writing it."""
    save_recognizer(model, world.file(role), {"role": role})
    sees_users = {"judge": True, "verifier": False}.get(role)
    return world.register(role, world.file(role), sees_users=sees_users)


def add_references(world: World, photos: Photos) -> World:
    """Returns the world with references, after its judges have embedded the photos."""
    References.from_photos(photos, world.judges).save(world.file("references"))
    return world.register("references", world.file("references"))


def make_rendered_world(folder: Path, *, users: int, photos: int, readable: Sequence[int]) -> World:
    """Returns a world of rendered people after writing its files; readable: the factors that its regressor claims to read."""
    world = World(folder, photos_per_user=photos, shows_references=True)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        mapping, synthesis = build_networks(64, 4, w_dim=32, depth=2, fmap_max=32)
        weights = {f"SE.{name}": value for name, value in mapping.state_dict().items()}
        weights |= {f"GE.{name}": value for name, value in synthesis.state_dict().items()}
        save_prior(world.file("prior"), weights, {"role": "prior"})
        world = world.register("prior", world.file("prior"))
        for role, identities in (("target", users), ("judge", users), ("verifier", 0), ("lpips_face", 0)):
            architecture = "alexnet_trunk" if role == "lpips_face" else "squeezenet1_1"
            model = CosineRecognizer(architecture, num_identities=identities, embedding_dim=16, scale=8.0)
            world = add_recognizer(world, role, model)
        regressor = FactorRegressor()
        regressor.r2[list(readable)] = 0.9
        save_regressor(regressor, world.file("factors"), {"role": "factors"})
        world = world.register("factors", world.file("factors"))
    return add_references(world, render_references(world, range(users)))


def register(monkeypatch: pytest.MonkeyPatch, world: World, folder: Path, name: str = NAME) -> None:
    """Puts the world as "tiny" into folder, which becomes the working folder, and makes LPIPS's download impossible."""
    (folder / name).symlink_to(world.folder)
    monkeypatch.chdir(folder)
    monkeypatch.setenv("GANINV_OFFLINE", "1")
    monkeypatch.setenv("TORCH_HOME", str(folder / "torch-home"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder / "cache-home"))


def run_main(monkeypatch: pytest.MonkeyPatch, command, *argv: object) -> int:
    """Returns the exit code of a command module's main() with these arguments."""
    script = command.__name__.rpartition(".")[2]
    monkeypatch.setattr("sys.argv", [f"/somewhere/scripts/{script}.py", *map(str, argv)])
    try:
        command.main()
    except SystemExit as end:
        return end.code or 0
    return 0
