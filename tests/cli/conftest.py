"""`tidegate …` in the test's own process: quick, and what it prints is the test's."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable

import pytest

from experiments.cli.main import main
from terminal import output


@pytest.fixture
def tidegate(monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """Runs a command that must end with `code`; gives what it printed."""

    def run(*arguments: object, code: int = 0, width: int = 140, colour: bool = False) -> str:
        text = io.StringIO()
        with monkeypatch.context() as patch:
            patch.setattr(sys, "argv", ["tidegate", *map(str, arguments)])
            patch.setattr(sys, "stdout", text)
            patch.setattr(sys, "stderr", text)
            patch.setattr(output, "console", output.Screen(width=width, force_terminal=colour, file=text))
            with pytest.raises(SystemExit) as ended:
                main()
        assert (ended.value.code or 0) == code, text.getvalue()
        return text.getvalue()

    return run
