"""Tests reading training runs: what a workdir must contain, and what is refused."""

import contextlib
import json
import shutil

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from odd_json import CONTENTS, changed

from fsvfm_jax.convert.runs import origin_license, read_run, run_config
from fsvfm_jax.errors import DataError

ORIGIN = {"source": "x.pth", "source_sha256": "0" * 64, "license": None}


@pytest.fixture(scope="module")
def workdir(short_run):
    return short_run


@pytest.fixture(scope="module")
def copied(workdir, tmp_path_factory):
    copy = tmp_path_factory.mktemp("copied") / "copy"
    shutil.copytree(workdir, copy)
    return copy


@pytest.mark.e2e
@pytest.mark.parametrize("name", ["fingerprint.json", "config.json"])
@pytest.mark.parametrize(
    "content",
    [
        *(b"{", b"{}", b'{"fingerprint": 1}', b'{"task": "pretrain"}'),
        *(
            b'{"fingerprint": {"dataset": "x", "images": 0}}',
            b'{"task": ["pretrain"]}',
            b'{"a.b":1}',
        ),
        *CONTENTS,
    ],
    ids=lambda content: repr(content[:40]),
)
def test_a_workdir_that_is_not_whole_is_refused(workdir, copied, name, content):
    (copied / name).write_bytes(content)
    with pytest.raises(DataError, match="copy") as error:
        read_run(copied)
    assert "\n" not in str(error.value)
    shutil.copy(workdir / name, copied / name)


@pytest.mark.parametrize(
    "content",
    [
        *CONTENTS,
        *(json.dumps(ORIGIN | {"license": x}).encode() for x in (7, {"a": 1}, "", "x" * 201)),
    ],
    ids=lambda content: repr(content[:40]),
)
def test_an_origin_that_is_none_is_refused(tmp_path, content):
    (tmp_path / "origin.json").write_bytes(content)
    with pytest.raises(DataError, match=r"origin\.json is not the origin of a run"):
        origin_license(tmp_path)


@pytest.mark.parametrize("license", [None, "mit", "CC BY 4.0", "a: b", "7"])
def test_the_licence_of_the_origin_may_be_any_text(tmp_path, license):
    (tmp_path / "origin.json").write_text(json.dumps(ORIGIN | {"license": license}))
    assert origin_license(tmp_path) == license


@pytest.mark.e2e
@settings(max_examples=25)
@given(data=st.data())
def test_a_changed_config_is_a_runs_or_refused(workdir, tmp_path_factory, data):
    folder = tmp_path_factory.getbasetemp()
    config = json.loads((workdir / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(data.draw(changed(config))))
    with contextlib.suppress(DataError):
        run_config(folder)


def test_a_workdir_without_a_run_is_refused(tmp_path):
    (tmp_path / "checkpoints").mkdir()
    with pytest.raises(DataError, match="no run has started yet"):
        read_run(tmp_path)
