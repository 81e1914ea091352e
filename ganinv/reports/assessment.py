"""What a data-protection assessment asks of an audit: what was attacked, with what, what was found, and what was not tried.

The standards are named as references, not as advice: whether a recognizer meets them is for those who answer for it.
"""

from __future__ import annotations

from collections.abc import Mapping

from ganinv.interfaces import RUNGS
from ganinv.reports.answers import count, list_given_away, name_users
from ganinv.reports.terminal import count_queries

HELD = {  # rung of access -> what the attacker held
    "gradients": "structure and parameters of the recognizer, and so any gradient",
    "embeddings": "the recognizer's embeddings of pictures of the attacker's own, and nothing inside it",
    "scores": "the recognizer's scores for pictures of the attacker's own, and nothing inside it",
    "decisions": "accept or reject for pictures of the attacker's own, and nothing else",
}
REFERENCES = (
    "OWASP AISVS 1.0, C11.4 Model-Inversion Resistance: 11.4.2 asks for query limits that fit the number of queries which a "
    "reconstruction takes; that number is above, for this attack.",
    "EDPB Opinion 28/2024 on AI models: a model counts as anonymous only where the likelihood of extracting personal data "
    "from it, or of obtaining them by queries, is insignificant, by all means reasonably likely to be used.",
    "Named as references. This report is a measurement, and no advice on either.",
)


def describe_assessment(report: Mapping, config: Mapping, provenance: Mapping) -> dict[str, list[str]]:
    """Returns heading -> lines, of a report, its configuration and its provenance; the last two may be empty."""
    return {
        "What was attacked": list_attacked(report, config, provenance),
        "What the attacker held": list_held(report, config),
        "What was found": list(report.get("verdict", [])) + describe_given_away(report),
        "What was not tried": list_untried(report, config),
        "Limits": list_limits(report),
        "References": list(REFERENCES),
    }


def list_attacked(report: Mapping, config: Mapping, provenance: Mapping) -> list[str]:
    """Returns which recognizer, by the SHA-256 of its weights, and which of its users."""
    target = provenance.get("weights", {}).get("target")
    name = config.get("target") or f"the recognizer of the world {report['world']}"
    lines = [name + (f", weights {target['file']} with SHA-256 {target['sha256']}" if target else ", weights unknown")]
    users = name_users(report, report["identities"], "")
    return [*lines, f"{count(len(report['identities']), 'user')} of it, by number: {users}"]


def list_held(report: Mapping, config: Mapping) -> list[str]:
    """Returns what the attacker could see, what else there was, and what it cost."""
    if report["method"] == "judged":
        return ["unknown: the pictures were made elsewhere"]
    lines = [HELD.get(config.get("access", "gradients"), "unknown")]
    if config.get("variant") == "white-box":
        lines.append("a picture that says something of the users, from which the search began")
    else:
        lines.append("no picture of any user")
    recovered = config.get("network") == "public" and config.get("access") != "embeddings"
    if report.get("goal") == "template":
        stored = "the embeddings of the users that were stored when they were enrolled"
        lines.append("a copy of the public network, and embeddings that were recovered from answers" if recovered else stored)
    if report["method"] != "pixel" and config.get("space") != "pixels":
        lines.append("a prior of faces, trained on other people")
    cost = report["cost"]
    if cost.get("images_evaluated") is not None:
        asked = f"{cost['images_evaluated']} pictures shown to the recognizer for all users, {cost['gradient_queries']} of "
        lines.append(f"{asked}them for a gradient, in {cost['seconds']:.0f} s{count_queries(report)}")
    return lines


def describe_given_away(report: Mapping) -> list[str]:
    """Returns who was given away, by number and name."""
    known = report.get("leak", {}).get("users")
    return [f"users given away: {name_users(report, list_given_away(report), '') or 'none'}"] if known else []


def list_untried(report: Mapping, config: Mapping) -> list[str]:
    """Returns what this run leaves open."""
    if report["method"] == "judged":
        return ["every attack but the one that made these pictures"]
    tried = config.get("access", "gradients")
    lines = [f"other access than {tried}: {', '.join(rung for rung in RUNGS if rung != tried)}"]
    goal = config.get("goal", "class")
    lines.append("a search for a stolen template" if goal == "class" else "a search for the score of a class")
    lines.append("other priors, search spaces and objectives, longer searches, and attackers who know some of the users")
    return [*lines, "membership: whether a given person is a user at all"]


def list_limits(report: Mapping) -> list[str]:
    """Returns what the numbers do not carry."""
    lines = [f"{count(len(report['identities']), 'user')} were tried; the intervals say how little or much that shows"]
    unknown = [judge["name"] for judge in report.get("judges", []) if judge["overlap"]["target_users"]["share"] is None]
    if unknown:
        lines.append(f"nobody has said whether these judges have met the users: {', '.join(unknown)}")
    shared = [judge["name"] for judge in report.get("judges", []) if judge["knows_users"]]
    if shared:
        lines.append(f"trained on other photos of the users: {', '.join(shared)}")
    return lines
