"""A file appears whole or not at all, and never outside its folder."""

import hashlib
import os

import numpy as np
import pytest

from camhelpers.files import ROOT, atomic, results_dir, sha256, versions, write_text


def test_a_file_appears_whole(tmp_path):
    path = tmp_path / "new" / "table.csv"
    with atomic(path) as temporary:
        assert temporary.parent == path.parent and temporary.suffix == ".csv"
        temporary.write_text("half")
        assert not path.exists()
        temporary.write_text("whole")
    assert path.read_text() == "whole" and os.listdir(path.parent) == ["table.csv"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
def test_or_not_at_all(tmp_path, error):
    path = tmp_path / "table.csv"
    path.write_text("old")
    with pytest.raises(error), atomic(path) as temporary:
        temporary.write_text("half")
        raise error
    assert path.read_text() == "old" and os.listdir(tmp_path) == ["table.csv"]


@pytest.mark.skipif(os.name == "nt", reason="Windows has no umask")
def test_a_file_is_readable_as_the_umask_says(tmp_path):
    before = os.umask(0o027)
    try:
        write_text(tmp_path / "a.txt", "a")
        assert (tmp_path / "a.txt").stat().st_mode & 0o777 == 0o640
        assert os.umask(0o027) == 0o027  # and the umask itself is as it was
    finally:
        os.umask(before)


def test_write_text_is_utf8_and_returns_the_path(tmp_path):
    path = write_text(str(tmp_path / "ü.txt"), "Grüße, 50 %")
    assert path.read_bytes() == "Grüße, 50 %".encode()


def test_versions_name_what_results_depend_on():
    assert versions()["numpy"] == np.__version__ and {"python", "torch"} <= set(versions())


def test_sha256(tmp_path):
    (tmp_path / "x").write_bytes(b"abc" * 100_000)
    assert sha256(tmp_path / "x") == hashlib.sha256(b"abc" * 100_000).hexdigest()


def test_results_dir_makes_folders_and_stays_inside(tmp_path):
    folder = results_dir("a", "b", out=tmp_path)
    assert folder.is_dir() and folder == (tmp_path / "a" / "b").resolve()
    for parts in (("..",), ("a", "..", ".."), ("/etc",), ("../x",)):
        with pytest.raises(ValueError, match="leaves the output folder; use plain names"):
            results_dir(*parts, out=tmp_path)
    assert not (tmp_path.parent / "x").exists()


def test_a_relative_out_counts_from_the_project_not_from_where_one_stands(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert results_dir() == (ROOT / "results").resolve() and os.listdir(tmp_path) == []
