"""Tests that files beside weights are read by a schema, and never read or hashed if not files."""

import hashlib
import os
from typing import TypedDict

import pytest
from odd_json import CONTENTS

from fsvfm_jax.convert.source_files import MAX_WEIGHTS_BYTES, file_sha256, read_source_json
from fsvfm_jax.errors import DataError


class Record(TypedDict):
    step: int


def test_a_file_is_read_and_hashed(tmp_path):
    file = tmp_path / "x.json"
    file.write_text('{"step": 3, "more": null}')
    assert read_source_json(file, Record, what="that of a run") == {"step": 3}
    assert file_sha256(file) == hashlib.sha256(file.read_bytes()).hexdigest()


@pytest.mark.parametrize("content", CONTENTS, ids=lambda content: repr(content[:12]))
def test_another_form_is_one_sentence(tmp_path, content):
    file = tmp_path / "x.json"
    file.write_bytes(content)
    with pytest.raises(DataError, match=r"x\.json is not that of a run \(.*\)$") as error:
        read_source_json(file, Record, what="that of a run")
    assert len(str(error.value)) < 500 and "\n" not in str(error.value)


@pytest.mark.parametrize("kind", ["missing", "pipe", "folder", "device", "sparse"])
def test_what_is_no_plain_file_is_neither_read_nor_hashed(tmp_path, kind):
    file = tmp_path / "x.json"
    if kind == "pipe":
        os.mkfifo(file)
    elif kind == "folder":
        file.mkdir()
    elif kind == "device":
        file.symlink_to("/dev/zero")
    elif kind == "sparse":
        file.touch()
        os.truncate(file, MAX_WEIGHTS_BYTES + 1)
    for read in (
        lambda: read_source_json(file, Record, what="that of a run"),
        lambda: file_sha256(file),
    ):
        with pytest.raises(
            DataError, match=r"x\.json cannot be read \((No such file|it (is|has) )"
        ):
            read()
