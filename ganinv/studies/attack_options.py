"""Where an attack happens: the options that the latent and the pixel attack share. Loads no torch."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ganinv import cli
from ganinv.engine.files import plain
from ganinv.json_data import NUMBER, WHOLE, read_json
from ganinv.weights.quoting import first_line


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """Whom an attack is for, on what, and where its results go."""

    world: str = "synthetic"  # name or folder: prior, target, judges and references that belong together
    identities: str = "0-9"  # users to reconstruct, such as 0-4,9; of five no p can be below 0.06
    seed: int = 0  # of candidates and transforms
    device: str = "auto"  # auto | cpu | cuda
    out: str = ""  # the run folder; "": runs/<method>-<world>-<NNN>
    wandb: str = "offline"  # offline | online | disabled
    wandb_artifacts: bool = False  # log report, configuration and latents as an artifact too
    target: str = ""  # torchvision:NAME:FILE, my_model.py:build, dlib, FILE.onnx, ... (docs/recognizers.md); "": the world's
    gallery: str = ""  # users to enrol in a target that embeds: a folder of photos, or .safetensors, .npz, .json
    templates: str = ""  # stored templates to reach, a file as for --gallery, in place of the target's; --goal=template
    threshold: float | None = None  # of the gallery, a cosine or a distance; None: the network's own
    classes: str = ""  # file with the users' names in the order that numbers them; "": the card's, or the folders' order
    photos: str = ""  # folder with new photos of the users, for judges and the check of the target; "": the world's
    force: bool = False  # go on though the check of the target on --photos finds it fed wrongly
    private_photos: bool = False  # also write private.html, which shows --photos beside the pictures; it stays here
    judge: str = ""  # who judges, such as sface,dlib: judges of the world, or what --target takes; "": the world's
    probes: str = ""  # folder that probe.py wrote: what target and judges know of attributes of your own; "": the world's
    label: str = ""  # name in comparisons; "": by method
    resume: str = ""  # a run folder to go on with, as it was configured; takes no other option
    from_run: str = ""  # a run folder to repeat in a new one; takes only --out, --device and --wandb beside it
    engine: str = "local"  # local | ray: this process, or workers of a Ray cluster (docs/clusters.md)
    address: str = ""  # host:port or ray://host:port of the cluster; "": one of this machine's own
    workers: int = 0  # of the engine ray; 0: one a CPU, or a GPU on --device=cuda
    save_every: int = 10  # steps between states, from which a killed run goes on


CODE = ("generator", "target", "judge")  # options that may name code
FREE = {"resume": CODE, "from_run": ("out", "device", "wandb", *CODE)}  # option -> options that may stand beside it


def read_run_config(config, defaults):
    """Returns the configuration that --resume or --from-run asks for; config itself without either.

    config: composed of `attack`, `run` (RunOptions) and options of its own; defaults: what it would be without options.
    Raises: ValueError when the folder holds no run of this method, an option beside it would change that run, or it names
    code that was not typed again.
    """
    name = "resume" if config.run.resume else "from_run"
    place = getattr(config.run, name)
    if not place:
        return config
    given, usual = cli.flatten(config), cli.flatten(defaults)
    changed = {option for option in given if given[option] != usual[option]} - {name}
    typed = {option: given[option] for option in changed & set(CODE)}
    if changed - set(FREE[name]):
        raise ValueError(f"expected no other options beside --{name.replace('_', '-')}, got some; leave them out")
    if not (Path(place) / "config.json").is_file():
        cure = "check the path, or begin it again where it was killed before"
        raise ValueError(f"expected a run folder with a config.json, got {place}; {cure}")
    stored = read_json(Path(place) / "config.json", {f"{option}?": find_kind(value) for option, value in usual.items()})
    # a run of an earlier version lacks the options that came later
    if not {"space", "identities"} <= set(stored) <= set(usual):
        raise ValueError(f"expected a run of this script and version in {place}, got another; see its config.json")
    check_typed(stored, typed, place)
    config = cli.override(defaults, stored)
    own = {"out": place} if name == "resume" else {"out": ""} | {option: given[option] for option in changed - set(CODE)}
    return dataclasses.replace(config, run=dataclasses.replace(config.run, **own, **{name: place}))


def find_kind(value: object) -> object:
    """Returns the kind, see json_data.find_mismatch, of an option whose default is a value."""
    if dataclasses.is_dataclass(value):
        return {f"{field.name}?": find_kind(getattr(value, field.name)) for field in dataclasses.fields(value)}
    kinds = {bool: bool, int: WHOLE, float: NUMBER, str: str, tuple: [NUMBER], type(None): (NUMBER, None)}
    return kinds[type(value)]


def name_code(settings: Mapping) -> dict[str, list[str]]:
    """Returns option -> specs in it whose loading runs code: a function, or an exported program."""
    from ganinv.recognizers.adapters import names_code
    from ganinv.weights.specs import split_spec

    found = {}
    for option in CODE:
        text = str(settings.get(option) or "")
        runs = split_spec if option == "generator" else names_code
        specs = [spec for spec in (text.split(",") if option == "judge" else [text]) if spec and runs(spec)]
        found |= {option: specs} if specs else {}
    return found


def check_typed(stored: Mapping, typed: Mapping[str, str], place: str) -> None:
    """Returns if the code that a run folder names was typed again: a folder is data, which somebody may have sent.

    Raises: ValueError naming what must be typed, or what was typed that the folder does not name.
    """
    for option, spec in typed.items():
        if spec and spec != stored.get(option):
            got = first_line(str(stored.get(option) or "the world's own"))
            raise ValueError(f"expected --{option} as in {place}, {got}, got {spec}; leave it out")
    for option in name_code(stored):
        if typed.get(option) != stored[option]:
            spec = first_line(str(stored[option]))
            raise ValueError(
                f"expected --{option}={spec} typed beside {place}, whose config.json names that code, got none; type it if "
                "you would run it"
            )


def find_goal(config) -> str:
    """Returns the goal of a configuration: a template where --templates names some."""
    return "template" if config.run.templates else config.attack.goal


def describe_config(config) -> dict:
    """Returns what config.json holds: option -> value, as JSON can hold it."""
    return plain(cli.flatten(config))
