"""Model packages that tests install: real distributions, by pip, into a folder of their own."""

from __future__ import annotations

import importlib
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from contract import installed_models, models

__all__ = ["EXAMPLE", "built", "forgotten", "install", "on_path"]

EXAMPLE = Path(__file__).parent / "example_model"

_PROJECT = """\
[build-system]
requires = ["setuptools>=77"]
build-backend = "setuptools.build_meta"
[project]
name = "{distribution}"
version = "{version}"
[project.entry-points."tidegate.models"]
{name} = "{module}:{family}"
[tool.setuptools]
packages = ["{module}"]
"""


def built(folder: Path, *, name: str, source: str, family: str = "Family", version: str = "1.0") -> Path:
    """The source of a package that offers one model."""
    module = name.replace("-", "_")
    (folder / module).mkdir(parents=True)
    project = _PROJECT.format(
        distribution=f"{name}-package", version=version, name=name, module=module, family=family
    )
    (folder / "pyproject.toml").write_text(project)
    (folder / module / "__init__.py").write_text(source)
    return folder


def install(
    source: Path, target: Path, scratch: Path, *, changes: Mapping[str, tuple[str, str]] = {}
) -> Path:
    """Install a package's source into a folder, with some of its text changed; the folder.

    Args:
        source: with a pyproject.toml.
        target: is made.
        scratch: for a copy, as building leaves files beside the source.
        changes: in the file of this name, the first text becomes the second.
    """
    copied = scratch / f"source-of-{target.name}"
    shutil.copytree(source, copied)
    for name, (before, after) in changes.items():
        text = (copied / name).read_text()
        assert before in text, name
        (copied / name).write_text(text.replace(before, after))
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--no-compile"]
    command += ["--no-build-isolation", "--disable-pip-version-check", "--target", str(target), str(copied)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return target


@contextmanager
def on_path(*folders: Path) -> Iterator[None]:
    """As if these folders were where this process finds what is installed; nothing of them stays loaded."""
    before, known = list(sys.path), set(sys.modules)
    sys.path[:0] = [str(folder) for folder in folders]
    importlib.invalidate_caches()
    forgotten()
    try:
        yield
    finally:
        sys.path[:] = before
        for name in set(sys.modules) - known:
            file = getattr(sys.modules[name], "__file__", None) or ""
            if any(file.startswith(f"{folder}/") for folder in folders):
                del sys.modules[name]
        importlib.invalidate_caches()
        forgotten()


def forgotten() -> None:
    """As a new process would, know of no package that was loaded."""
    installed_models._loaded.clear()
    models._of_package.cache_clear()
    from clients.mechanisms import places, trial

    trial._tried.cache_clear()
    places._same_bits_of_package.cache_clear()
