"""Preparation by Apache Beam: the same records as without it."""

import importlib.util

import pytest

from jax_itm.cli.main import main
from jax_itm.data.preparation import prepare
from jax_itm.data.prepared import describe, open_split
from jax_itm.errors import UserError
from tests.helpers.bottom_up import SIX, tsv_row, write_tsv
from tests.helpers.errors import says
from tests.helpers.pictures import truncated_jpeg, write_folder
from tests.helpers.precomp import write_precomp
from tests.helpers.uniter_features import entries, write_captions, write_lmdb, zipped

needs_beam = pytest.mark.skipif(
    importlib.util.find_spec("apache_beam") is None,
    reason="apache-beam is not installed: pip install -e .[beam]",
)


def same(name, one, other, view):
    facts = describe(name, one)
    assert facts | {"path": 0} == describe(name, other) | {"path": 0}
    for split in facts["splits"]:
        pair = [open_split(name, data, split, view) for data in (one, other)]
        assert pair[0].captions() == pair[1].captions() and pair[0].max_regions == pair[1].max_regions
        for image in range(len(pair[0])):
            assert pair[0]._features(image) == pair[1]._features(image)


@needs_beam
def test_precomp(tmp_path, monkeypatch):
    """Of several chunks, which come in any order, into several files."""
    from jax_itm.data import beam

    def two_files(options, _inner=beam.download_config):
        config = _inner(options)
        config.num_shards = 2
        return config

    monkeypatch.setattr(beam, "CHUNK", 3)
    monkeypatch.setattr(beam, "download_config", two_files)
    write_precomp(tmp_path / "raw", images=10)
    prepare("precomp", tmp_path / "plain", tmp_path / "raw")
    prepare("precomp", tmp_path / "beam", tmp_path / "raw", beam={})
    same("precomp", tmp_path / "plain", tmp_path / "beam", "regions")
    assert len(list((tmp_path / "beam").rglob("*-train.array_record*"))) == 2


@needs_beam
@pytest.mark.parametrize("name", ["uniter", "bottom_up_tsv"])
def test_regions(tmp_path, name):
    if name == "uniter":
        images = [f"{k}.jpg" for k in (36979, 1000)]
        write_captions(tmp_path / "raw", images)
        keys = [f"flickr30k_{int(image[:-4]):012}.npz" for image in images]
        write_lmdb(
            tmp_path / "raw" / "feat_th0.2_max100_min10", {k: zipped(v) for k, v in entries(keys).items()}
        )
    else:
        write_tsv(tmp_path / "raw", [tsv_row("9", SIX), tsv_row("42", SIX)])
    prepare(name, tmp_path / "plain", tmp_path / "raw")
    prepare(name, tmp_path / "beam", tmp_path / "raw", beam={})
    same(name, tmp_path / "plain", tmp_path / "beam", "regions")


@needs_beam
def test_folder_by_two_processes(tmp_path):
    folder = write_folder(tmp_path / "raw")
    lines = "0.jpg,A dog\n0.jpg,A cat\n1.jpg,B\n2.jpg,C\n"
    (folder / "captions.csv").write_text("path,caption\n" + lines)
    command = ["prepare", "folder", "--source", str(folder), "--data_dir"]
    assert main([*command, f"{tmp_path}/plain"]) == 0
    options = "direct_num_workers=2,direct_running_mode=multi_processing"
    assert main([*command, f"{tmp_path}/beam", "--beam", "--beam_options", options]) == 0
    same("folder", tmp_path / "plain", tmp_path / "beam", "pixels")


@needs_beam
@pytest.mark.parametrize("options", [{}, {"direct_running_mode": "multi_processing"}])
def test_a_wrong_record_leaves_nothing(tmp_path, options):
    folder = write_folder(tmp_path / "raw")
    (folder / "images" / "1.jpg").write_bytes(truncated_jpeg())
    (folder / "captions.csv").write_text("path,caption\n0.jpg,A\n1.jpg,B\n")
    with pytest.raises(UserError, match=r"raw/images/1\.jpg: not a readable image \(.*\)$") as caught:
        prepare("folder", tmp_path / "data", folder, beam=options)
    assert "\n" not in str(caught.value)
    assert not [p for p in (tmp_path / "data").rglob("*") if p.is_file()]
    assert not list((tmp_path / "data" / "folder").iterdir())


@needs_beam
def test_a_full_disk_leaves_nothing(tmp_path, monkeypatch):
    def fail(*_):
        raise OSError("No space left on device")

    monkeypatch.setattr("jax_itm.data.tfds_builder.RecordWriter.write", fail)
    write_precomp(tmp_path / "raw")
    with pytest.raises(UserError, match=r"--beam: the pipeline failed .*No space left on device"):
        prepare("precomp", tmp_path / "data", tmp_path / "raw", beam={})
    assert not list((tmp_path / "data" / "precomp").iterdir())


def test_refuses(tmp_path, capsys, monkeypatch):
    write_precomp(tmp_path / "raw")
    command = ["prepare", "precomp", "--source", str(tmp_path / "raw"), "--data_dir", f"{tmp_path}/data"]
    says(
        capsys,
        main([*command, "--beam_options", "a=b"]),
        "--beam_options a=b: must be KEY=VALUE,.. with --beam",
    )
    says(capsys, main([*command, "--beam", "--beam_options", "a"]), "--beam_options a: must be KEY=VALUE")
    says(capsys, main([*command, "--beam", "--entities", str(tmp_path)]), "--beam: reads only raw files")
    says(
        capsys, main(["prepare", "scenes", "--data_dir", command[-1], "--beam"]), "prepare scenes without it"
    )
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    says(capsys, main([*command, "--beam"]), "--beam: needs the package apache-beam: pip install")
    assert not (tmp_path / "data").exists()
