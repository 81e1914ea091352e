from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from ganinv.commands import console

ROOT = Path(__file__).resolve().parents[1]


def call(monkeypatch, *argv: str) -> int:
    monkeypatch.setattr("sys.argv", ["/somewhere/bin/ganinv", *argv])
    try:
        console.main()
    except SystemExit as end:
        return end.code or 0
    return 0


def test_every_script_is_a_verb():
    assert sorted(console.VERBS) == sorted(path.stem.replace("_", "-") for path in (ROOT / "scripts").glob("*.py"))


def test_alone_it_says_what_each_verb_does(monkeypatch, capsys):
    assert call(monkeypatch) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) <= 45 and all(any(line.split()[:1] == [verb] for line in lines) for verb in console.VERBS)


def test_a_verb_runs_its_command(monkeypatch, capsys):
    assert call(monkeypatch, "compare", "--dry-run", "--out=A") == 0
    assert '"runs": [' in capsys.readouterr().out and sys.argv[0] == "ganinv compare"
    assert call(monkeypatch, "compare", "--help") == 0
    assert capsys.readouterr().out.startswith("usage: ganinv compare ")


def test_an_unknown_verb_is_one_line_and_exit_code_2(monkeypatch, capsys):
    assert call(monkeypatch, "attack") == 2
    err = capsys.readouterr().err
    assert err.startswith("error: expected a verb among audit, latent-attack, ") and err.count("\n") == 1


def test_help_does_not_wait_for_torch():
    """Of all verbs in one process: what loads torch for one would load it for any."""
    code = (
        "import sys\nfrom ganinv.commands import console\n"
        "for verb in console.VERBS:\n"
        "    sys.argv = ['ganinv', verb, '--help']\n"
        "    console.main()\n"
        "    found = {'torch', 'numpy', 'matplotlib', 'wandb', 'optuna'} & set(sys.modules)\n"
        "    assert not found, (verb, found)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=100, cwd=ROOT)
    assert done.returncode == 0 and done.stdout.count("--dry-run prints") == len(console.VERBS), done.stderr
