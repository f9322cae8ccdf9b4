"""The hashes that hold for a version's files, whatever MLflow says of them."""

from __future__ import annotations

from server.jobs.champion import made_versions, served_versions
from server.registry.registry import Registry
from server.state.storage import State
from server.state.versions import RegisteredVersions

__all__ = ["is_ours", "registered_hashes"]


def is_ours(model: str, version: int, state: State) -> bool:
    """Whether a run of this server has made a version, or a decision of its has put it into service."""
    return version in made_versions(model, state) or version in served_versions(model, state)


def registered_hashes(model: str, version: int, state: State, registry: Registry) -> dict[str, str]:
    """The SHA-256 by file that was kept when a version was registered; none of a version that is not ours.

    Of one that an earlier Tidegate registered, which kept none, they are taken over from MLflow once, with
    its passport: what is changed from then on is seen.
    """
    kept = RegisteredVersions(state.database)
    known = kept.hashes(model, version)
    if known or not is_ours(model, version, state):
        return known
    record = next((one for one in registry.versions(model) if one.version == version), None)
    if record is None:
        return {}
    kept.add_files(model, version, registry.file_hashes(model, version))
    if kept.passport(model, version) is None and record.description:
        kept.add_passport(model, version, record.description)
    return kept.hashes(model, version)
