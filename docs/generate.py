"""Writes the pages of the guide that the code and the weights' cards already know, so that they cannot drift.

    python docs/generate.py

brings the tables of docs/metrics.md up to date, which a test compares with ganinv/metrics/catalogue.py. The model cards
are made when the guide is built, into docs/generated.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from ganinv.metrics.catalogue import CATALOGUE, PLAIN, Metric
from ganinv.worlds.world import find_world, list_worlds

DOCS = Path(__file__).resolve().parent
MARKED = re.compile(r"(<!-- written by generate\.py -->\n)(.*?)(<!-- end -->)", re.DOTALL)
HIDDEN = {  # keys of a card that have a line of their own, or are too long for one
    *("role", "world", "kind", "identities", "factors", "frame"),
    *("attributes", "ceilings", "absent", "users"),
    *("command", "data", "trained_on", "network_trained_on", "metrics", "training", "sha256"),
}
TITLES = {
    "prior": "the prior: draws faces",
    "target": "the target: the recognizer under attack",
    "gallery": "the gallery: users enrolled in the target",
    "judge": "the judge that knows the users",
    "verifier": "the judge that never met the users",
    "lpips_face": "the trunk of a perceptual distance",
    "factors": "the regressor of a rendered person's factors",
    "cnn": "a further target: a small CNN that has met nobody but the users",
    "mobilefacenet": "a recognizer that others trained and published: a judge",
}
USES = {
    "prior": "Attacks search its latent space. Controls are drawn from it.",
    "target": "To be attacked in demonstrations and comparisons. It protects no door.",
    "cnn": "To be attacked in demonstrations and comparisons (`--target=cnn`). It protects no door.",
    "gallery": "To be attacked, together with the network that embeds. Templates are embeddings, without pictures.",
    "judge": "To judge reconstructions of this world's users, and of nobody else.",
    "verifier": "To compare reconstructions with reference photos. It names nobody.",
    "lpips_face": "The distance `lpips_face` and the training of priors. Never to be compared with LPIPS.",
    "mobilefacenet": "To judge reconstructions, or to be attacked. It never met the users of this world.",
    "factors": "To read the true factors off pictures of rendered people (`factor_recovery`).",
}
LIMITS = {
    "prior": "What it has not learnt it cannot draw: a poor prior makes a recognizer look safe. It draws faces of 64 px.",
    "target": "Trained here, briefly, on few people; a deployed recognizer is larger. Not for recognizing anybody.",
    "gallery": "Embeddings of people who exist are personal data: keep them as you would photos, and name nobody.",
    "judge": "Trained here, briefly: it shares the data, and so perhaps the mistakes, of the target.",
    "verifier": "Trained here, briefly: easily satisfied. Published recognizers may contradict it.",
    "lpips_face": "No learned heads: the distance was never fitted to what people see.",
    "cnn": "Trained here, briefly, on few people; a deployed recognizer is larger. Not for recognizing anybody.",
    "mobilefacenet": "What it was trained on is only partly said; it may have met people whose photos are judged.",
    "factors": "Reads only factors that it can tell from a photo of an unseen person; the others are left out.",
    "calibration": "It holds for the target, the reader and the attack that it was fitted on, and for people like these.",
}
TITLES["calibration"] = "the calibration of what pictures say of a person's attributes"
USES["calibration"] = "To say how sure an attribute is that was read off several pictures of a user."
for _network in ("dlib", "sface", "mobilefacenet", "target"):
    TITLES[f"probe_{_network}"] = f"the probe of {_network}: attributes of a person, read off its embeddings"
    USES[f"probe_{_network}"] = "To measure what a recognizer, or a picture, gives away of a person. Never to sort people."
    LIMITS[f"probe_{_network}"] = (
        "It reads what annotators said of photos, or what a renderer was told, and not who a person is."
    )


def write_metrics() -> str:
    """Returns the tables of the metrics as Markdown: a heading and a table for each group of the catalogue."""
    groups: dict[str, list[Metric]] = {}
    for metric in CATALOGUE.values():
        groups.setdefault(metric.group, []).append(metric)
    lines = []
    for group, metrics in groups.items():
        lines += [f"### {group}", "", "| name | range | what it is | formula, source |", "|---|---|---|---|"]
        for metric in metrics:
            arrow = "\u2191" if metric.direction == "higher" else "\u2193"
            source = "" if metric.source == PLAIN else f" ({metric.source})"
            cells = (f"`{metric.name}`", f"{metric.range} {arrow}", metric.words, metric.formula + source)
            lines.append("| " + " | ".join(cell.replace("|", "\\|").replace("*", "\\*") for cell in cells) + " |")
        lines.append("")
    return "\n".join(lines)


def update_metrics(text: str) -> str:
    """Returns the page of the metrics with its tables as the catalogue has them."""
    return MARKED.sub(lambda found: f"{found[1]}\n{write_metrics()}\n{found[3]}", text)


def list_models() -> Iterator[tuple[str, str, dict]]:
    """Yields (world, role, card) of every weight file that is shipped with a card."""
    for world in list_worlds():
        for path in sorted(find_world(world).folder.glob("*.safetensors")):
            if path.with_suffix(".json").is_file():
                yield world, path.stem, json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))


def write_model(world: str, role: str, card: Mapping) -> str:
    """Returns the page of one weight file."""
    exists = find_world(world).photos_per_user > 0
    facts = {
        "file": f"`pretrained/{world}/{role}.safetensors`",
        "kind": card.get("kind", ""),
        "trained on": "; ".join(say_data(card)) or "not said",
        "command": f"`{card.get('command', 'not said')}`",
        **flatten({name: value for name, value in card.items() if name not in HIDDEN}),
        "SHA-256": f"`{card['sha256']}`",
    }
    people = (
        ""
        if "licence" in card
        else (
            "Nobody on the photos that it learnt from exists."
            if exists
            else "It learnt from photographs of real people, from public research sets: for research alone."
        )
    )
    lines = [f"# `{world}/{role}`", "", f"{TITLES.get(role, role).capitalize()} of the world `{world}`.", ""]
    lines += list_table(("", ""), facts)
    for title, part in (("Quality", flatten(card.get("metrics", {}))), ("Training", flatten(card.get("training", {})))):
        if part:
            lines += [f"## {title}", "", *list_table(("", ""), part)]
    lines += ["## Intended use", "", USES.get(role, "See the world's page."), ""]
    lines += ["## Limits", "", f"{LIMITS.get(role, '')} {people}".strip(), ""]
    return "\n".join(lines)


def say_data(card: Mapping) -> Iterator[str]:
    """Yields in words which photos a network was trained on."""
    for name, data in card.get("data", {}).items():
        yield f"{name.replace('_', ' ')}: {data['words'] if isinstance(data, Mapping) else say(data)}"
    for name in ("trained_on", "network_trained_on"):
        if name in card:
            yield card[name]


def flatten(values: Mapping, prefix: str = "") -> dict[str, str]:
    """Returns nested values as one level of text, `outer, inner` -> value."""
    flat = {}
    for name, value in values.items():
        name = f"{prefix}{name}".replace("_", " ")
        flat |= flatten(value, f"{name}, ") if isinstance(value, Mapping) else {name: say(value)}
    return flat


def say(value: object) -> str:
    """Returns a value of a card as a cell of a table."""
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, list):
        return ", ".join(map(say, value)) or "none"
    return "none" if value is None else str(value)


def list_table(head: tuple[str, str], rows: Mapping[str, str]) -> list[str]:
    """Returns a Markdown table of two columns."""
    lines = [f"| {head[0]} | {head[1]} |", "|---|---|"]
    return [*lines, *(f"| {name} | {value} |".replace("\n", " ") for name, value in rows.items()), ""]


def write_models(folder: Path) -> list[str]:
    """Writes a page for each shipped weight file and returns their names."""
    folder.mkdir(parents=True, exist_ok=True)
    for stale in folder.glob("*.md"):
        stale.unlink()
    names = []
    for world, role, card in list_models():
        names.append(f"{world}-{role}")
        (folder / f"{names[-1]}.md").write_text(write_model(world, role, card), encoding="utf-8")
    return names


def read_notebook(text: str) -> object:
    """Returns a file in percent format as a notebook of Python."""
    import jupytext

    notebook = jupytext.reads(text, fmt="py:percent")
    notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
    notebook.metadata["language_info"] = {"name": "python", "pygments_lexer": "ipython3"}
    return notebook


if __name__ == "__main__":
    page = DOCS / "metrics.md"
    page.write_text(update_metrics(page.read_text(encoding="utf-8")), encoding="utf-8")
