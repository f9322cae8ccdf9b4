"""The hostile server as a program: it asks one question and prints what the site let out.

python -m tests.adversary.hostile_server SITE.TOML KIND EXPERIMENT.json INSTRUCTION.json [TIMES]
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from experiments.audit.hostile_server import HostileServer


def main() -> None:
    site, kind, experiment, instruction, *times = sys.argv[1:]
    server = HostileServer(Path(site))
    asked = json.loads(Path(instruction).read_text())
    for step in range(int(times[0]) if times else 1):
        found = server.ask(kind, {**asked, "step": step + 1}, experiment=Path(experiment).read_text())
        print(json.dumps({"word": found.word, "reply": found.reply}), flush=True)
    sys.stdin.read()  # whoever started this decides how it ends


if __name__ == "__main__":
    main()
