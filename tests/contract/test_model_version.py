"""What is compared before a version's file is used."""

from __future__ import annotations

import pytest

from contract.errors import RegistryError
from contract.model_version import ARRAYS_FILE, EXPERIMENT_FILE, HASH_TAGS, require_registered, sha256


def test_a_file_is_used_only_if_it_has_the_hash_of_the_record() -> None:
    tags = {HASH_TAGS[ARRAYS_FILE]: sha256(b"arrays")}
    require_registered(ARRAYS_FILE, b"arrays", tags, error=RegistryError, where="m version 1")
    with pytest.raises(RegistryError, match="arrays are not those that were registered"):
        require_registered(ARRAYS_FILE, b"others", tags, error=RegistryError, where="m version 1")


@pytest.mark.parametrize("content", [b"", b"plan"])
def test_a_version_of_an_earlier_program_is_not_said_to_be_changed(content: bytes) -> None:
    with pytest.raises(RegistryError, match=r"without a hash of experiment\.json, by an earlier Tidegate"):
        require_registered(EXPERIMENT_FILE, content, {}, error=RegistryError, where="m version 1")
