"""The README's commands, for the tests that run them."""

from __future__ import annotations

import re
from pathlib import Path

__all__ = ["Guide", "commands_of", "headings"]

README = Path(__file__).resolve().parents[1] / "README.md"


def headings() -> list[str]:
    """The headings of all sections, in their order."""
    return re.findall(r"^## (.+)$", README.read_text(encoding="utf-8"), re.M)


def commands_of(heading: str) -> list[str]:
    """The commands of a section's bash blocks, a line each, without comments."""
    text = README.read_text(encoding="utf-8").split(f"\n## {heading}\n")[1].split("\n## ")[0]
    blocks = re.findall(r"^```bash\n(.*?)^```", text, re.M | re.S)
    lines = [re.sub(r"\s+# .*|^#.*", "", line) for block in blocks for line in block.splitlines()]
    return [line for line in lines if line]


class Guide:
    """The commands of one section, each to be taken once.

    Args:
        heading: of the section.
    """

    def __init__(self, heading: str) -> None:
        self.left = commands_of(heading)

    def take(self, beginning: str, **values: str) -> str:
        """The one command that begins so, with these values in the place of the words in capital letters."""
        (command,) = (line for line in self.left if line.startswith(beginning))
        self.left.remove(command)
        return filled(command, values)


def filled(command: str, values: dict[str, str]) -> str:
    """The command with values for the words in capital letters; none may be left over."""
    for word, value in values.items():
        assert word in command, f"{command} has no {word}"
        command = command.replace(word, value)
    return command
