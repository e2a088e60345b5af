"""Sources behind addresses: memory, a web server and an object store on loopback."""

from __future__ import annotations

import functools
import io
import pickle
import tarfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.request import Request, urlopen

import fsspec
import numpy as np
import pandas as pd
import pytest
from fsspec.implementations.memory import MemoryFileSystem
from fsspec.registry import known_implementations
from PIL import Image

from cam_hub import DatasetReport, errors, explain_dataset
from cam_hub.datasets.sources import open_source
from cam_hub.images import remote
from cam_hub.images.remote import RemoteFile, is_address
from tests.fakes.tiny_datasets import CLASSES, colours, folder_of, image

COUNT = 6
MISSING = r"cannot be read: (there is nothing|404)"


@pytest.fixture(scope="module")
def model():
    return colours()


@pytest.fixture(scope="module")
def local(tmp_path_factory) -> Path:
    """A folder with the same images in every form: class folders, tables, archives."""
    root = tmp_path_factory.mktemp("remote")
    photos = folder_of(root / "photos", COUNT)
    (photos / ".hidden.png").write_bytes(b"")
    paths = sorted(path for path in photos.rglob("*.png") if path.name != ".hidden.png")
    rows = [{"path": f"../photos/{p.relative_to(photos)}", "label": p.parent.name} for p in paths]
    (root / "tables").mkdir()
    pd.DataFrame(rows).to_csv(root / "tables" / "table.csv", index=False)
    pd.DataFrame(rows).to_parquet(root / "tables" / "table.parquet")
    (root / "shards").mkdir()
    for shard in range(2):
        with tarfile.open(root / "shards" / f"{shard:03d}.tar", "w") as archive:
            for number in range(shard * 3, shard * 3 + 3):
                for name, content in (
                    (f"{number}.png", encoded(number)),
                    (f"{number}.cls", CLASSES[number % 3].encode()),
                ):
                    entry = tarfile.TarInfo(name)
                    entry.size = len(content)
                    archive.addfile(entry, io.BytesIO(content))
    return root


def encoded(number: int) -> bytes:
    file = io.BytesIO()
    image(number).save(file, "PNG")
    return file.getvalue()


@pytest.fixture
def memory(local) -> Iterator[str]:
    """The folder in fsspec's memory."""
    files = fsspec.filesystem("memory")
    files.put(str(local), "/bucket", recursive=True)
    yield "memory://bucket"
    files.rm("/bucket", recursive=True)


def check(model, source: str, out: Path, *, files: bool = True) -> DatasetReport:
    """Explains all images; those that are files are found again by their rows alone."""
    report = explain_dataset(model, source, out, method="layercam", batch_size=4)
    assert not report.errors()
    assert (len(report), report.accuracy) == (COUNT, 1.0)
    for row in DatasetReport.open(out):
        assert (row.path is not None) is files
        assert row.overlay().size == (40, 32)
    assert len(explain_dataset(model, source, out, method="layercam", batch_size=4)) == COUNT
    return report


def check_every_form(model, base: str, out: Path) -> None:
    """A folder, a glob, tables and archives at one place."""
    report = check(model, f"{base}/photos", out / "folder")
    assert report.keys()[0] == "blue/00002.png"
    assert report["red/00003.png"].path == f"{base}/photos/red/00003.png"
    assert report.job["source"] == {"kind": "folder", "path": f"{base}/photos"}
    report = check(model, f"{base}/photos/*/*.png", out / "glob")
    assert report.keys()[0] == "blue/00002.png"
    report = check(model, f"{base}/tables/table.csv", out / "csv")
    assert report.keys()[0] == "../photos/blue/00002.png"
    check(model, f"{base}/tables/table.parquet", out / "parquet")
    report = check(model, f"{base}/shards/{{000..001}}.tar", out / "tar", files=False)
    assert report.keys() == list("012345")
    check(model, f"{base}/shards/*.tar", out / "tars", files=False)
    check(model, f"{base}/shards/", out / "folder-of-tars", files=False)
    with pytest.raises(errors.InvalidArgument, match="a folder of images"):
        open_source(f"{base}/photos/red/00000.png")  # a single image
    with pytest.raises(errors.SourceUnavailable, match=MISSING):
        open_source(f"{base}/shards/{{000..002}}.tar")
    with pytest.raises(errors.SourceUnavailable, match=MISSING):
        open_source(f"{base}/nowhere")
    with pytest.raises(errors.InvalidArgument, match="a folder of images"):
        open_source(f"{base}/nowhere/*.png")


class TestMemory:
    def test_every_form(self, model, memory, tmp_path):
        check_every_form(model, memory, tmp_path)

    def test_images_are_fetched_by_the_threads_that_decode_them(
        self, model, memory, tmp_path, monkeypatch
    ):
        threads = set()
        plain = MemoryFileSystem.open

        def watched(self, *args, **kwargs):
            threads.add(threading.current_thread().name.partition("_")[0])
            return plain(self, *args, **kwargs)

        monkeypatch.setattr(MemoryFileSystem, "open", watched)
        explain_dataset(model, f"{memory}/photos", tmp_path / "out", method="layercam")
        assert threads == {"cam-hub-reading"}

    def test_an_image_that_is_gone_damaged_or_too_large_has_an_error_row(
        self, model, memory, tmp_path, monkeypatch
    ):
        files = fsspec.filesystem("memory")
        source = open_source(f"{memory}/photos")
        samples = [sample for _, sample in source.keyed()]
        files.rm("/bucket/photos/blue/00002.png")
        files.pipe("/bucket/photos/blue/00005.png", b"no image")
        files.pipe("/bucket/photos/red/00000.png", encoded(0) + bytes(5000))
        monkeypatch.setattr(remote, "MAX_BYTES", 5000)
        report = explain_dataset(model, samples, tmp_path / "out", method="layercam")
        found = {key: message for key, (_, message) in report.errors().items()}
        assert set(found) == {"blue/00002.png", "blue/00005.png", "red/00000.png"}
        assert "memory://bucket/photos/blue/00002.png cannot be read: there is nothing" in str(
            found["blue/00002.png"]
        )
        assert "memory://bucket/photos/blue/00005.png' is not an image" in found["blue/00005.png"]
        assert "has more than 5,000 bytes" in found["red/00000.png"]

    def test_tables_on_this_machine_may_name_addresses(self, model, memory, tmp_path):
        rows = [(f"{memory}/photos/red/00000.png", "red"), ("nosuch://x/y.png", "red")]
        pd.DataFrame(rows, columns=["path", "label"]).to_csv(tmp_path / "t.csv", index=False)
        report = explain_dataset(model, tmp_path / "t.csv", tmp_path / "out", method="layercam")
        assert [row.correct for row in report] == [True, None]
        assert "Protocol not known: nosuch" in report.errors()["nosuch://x/y.png"][1]

    def test_a_dataset_of_remote_files_can_be_sent_to_another_process(self, memory):
        (_, sample), *_ = open_source(f"{memory}/photos").keyed()
        assert pickle.loads(pickle.dumps(sample.picture)).read() == encoded(2)


class TestAddresses:
    @pytest.mark.parametrize(
        ("text", "expected"),
        [
            ("s3://bucket/folder", True),
            ("HTTPS://host/a.tar", True),
            ("file:///home/a", False),
            ("local://home/a", False),
            ("C://photos", False),
            ("photos/s3://x", False),
        ],
    )
    def test_what_is_one(self, text, expected):
        assert is_address(text) is expected

    @pytest.mark.parametrize(
        ("address", "shown"),
        [
            ("https://me:secret@host/a.jpg", "https://host/a.jpg"),
            ("https://host/a.jpg?X-Amz-Signature=secret", "https://host/a.jpg"),
            ("s3://bucket/what?.jpg", "s3://bucket/what?.jpg"),
        ],
    )
    def test_secrets_are_not_shown(self, address, shown):
        file = RemoteFile(None, address, address)
        assert file.shown == shown
        assert file.is_public is (address == shown)

    def test_what_cannot_work_is_refused_at_the_call(self, model, tmp_path, monkeypatch):
        with pytest.raises(errors.InvalidArgument, match="Protocol not known: s4"):
            explain_dataset(model, "s4://bucket", tmp_path / "out")
        with pytest.raises(errors.InvalidArgument, match="without '::'"):
            open_source("zip://*.png::s3://bucket/a.zip")
        entry = {"class": "no_such_fs.Files", "err": "Install it"}
        monkeypatch.setitem(known_implementations, "nowhere", entry)
        with pytest.raises(errors.PackageMissing, match="pip install no_such_fs") as found:
            open_source("nowhere://bucket/photos")
        assert found.value.package == "no_such_fs"
        assert not (tmp_path / "out").exists()


class Files(SimpleHTTPRequestHandler):
    """A folder on the web, which gives files as a whole.

    A file named ``cut.png`` breaks off, and ``secret.png`` needs a signature.
    """

    def do_GET(self) -> None:
        if self.path.endswith("cut.png"):
            self.send_response(200)
            self.send_header("Content-Length", "5000")
            self.end_headers()
            self.wfile.write(encoded(0)[:20])
        elif "secret.png" in self.path and "signature=right" not in self.path:
            self.send_error(403)
        else:
            super().do_GET()

    def do_HEAD(self) -> None:
        if self.path.endswith(("cut.png", "large.png", "table.parquet")):
            self.send_response(200)
            self.send_header("Accept-Ranges", "none")
            self.end_headers()
        else:
            super().do_HEAD()

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def web(folder: Path) -> Iterator[str]:
    pytest.importorskip("aiohttp")
    server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Files, directory=str(folder)))
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class TestWeb:
    def test_every_form(self, model, local, tmp_path):
        with web(local) as base:
            check_every_form(model, base, tmp_path)
        with pytest.raises(errors.SourceUnavailable, match="Cannot connect"):
            open_source(f"{base}/shards/000.tar")

    def test_a_broken_connection_ends_one_image_only(self, model, tmp_path):
        photos = folder_of(tmp_path / "photos", 2)
        (photos / "red" / "cut.png").write_bytes(b"x")
        (photos / "red" / "a b.png").write_bytes(encoded(0))
        with web(tmp_path) as base:
            report = explain_dataset(model, f"{base}/photos", tmp_path / "out", method="layercam")
        assert report.keys() == ["green/00001.png", "red/00000.png", "red/a b.png", "red/cut.png"]
        ((key, (code, message)),) = report.errors().items()
        assert (key, code) == ("red/cut.png", "image_refused")
        assert f"{base}/photos/red/cut.png cannot be read: " in message
        with pytest.raises(errors.ImageRefused, match="Cannot connect"):
            report["red/00000.png"].overlay()

    def test_a_large_image_that_arrives_in_pieces(self, model, tmp_path, rng):
        (tmp_path / "photos").mkdir()
        pixels = rng.integers(0, 255, (900, 900, 3), np.uint8)
        Image.fromarray(pixels).save(tmp_path / "photos" / "large.png")
        with web(tmp_path) as base:
            report = explain_dataset(model, f"{base}/photos", tmp_path / "out", method="layercam")
        assert not report.errors()
        assert report["large.png"].placement.photo_size == (900, 900)

    def test_signatures_are_not_stored(self, model, tmp_path):
        (tmp_path / "secret.png").write_bytes(encoded(0))
        with web(tmp_path) as base:
            table = f"path,key\n{base}/secret.png?signature=right,a\n{base}/secret.png?s=wrong,b\n"
            (tmp_path / "t.csv").write_text(table)
            source = f"{base}/t.csv?signature=right"
            report = explain_dataset(model, source, tmp_path / "out", method="layercam")
            assert report["a"].error is None
            assert report["a"].path is None
            assert report["a"].overlay().size == (40, 32)
            assert "403" in report.errors()["b"][1]
        content = b"".join(file.read_bytes() for file in (tmp_path / "out").iterdir())
        assert b"right" not in content
        assert b"wrong" not in report.errors()["b"][1].encode()


@pytest.fixture
def bucket(local, monkeypatch) -> Iterator[str]:
    """The folder in a bucket of an S3 server on loopback."""
    pytest.importorskip("s3fs")
    server = pytest.importorskip("moto.server")
    for name, value in {
        "AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_DEFAULT_REGION": "us-east-1", "AWS_EC2_METADATA_DISABLED": "true",
    }.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    running = server.ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    running.start()
    host, port = running.get_host_and_port()
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", f"http://{host}:{port}")
    urlopen(Request(f"http://{host}:{port}/moto-api/reset", method="POST")).close()
    files = fsspec.filesystem("s3", skip_instance_cache=True)
    files.mkdir("bucket")
    files.put(str(local), "bucket/data", recursive=True)
    fsspec.get_filesystem_class("s3").clear_instance_cache()
    yield "s3://bucket/data"
    fsspec.get_filesystem_class("s3").clear_instance_cache()
    running.stop()


class TestObjectStore:
    def test_every_form(self, model, bucket, tmp_path):
        check_every_form(model, bucket, tmp_path)

    def test_buckets_that_are_missing_and_credentials_that_are(self, bucket, tmp_path, monkeypatch):
        with pytest.raises(errors.SourceUnavailable, match="bucket does not exist"):
            open_source("s3://no-such-bucket/photos")
        fsspec.get_filesystem_class("s3").clear_instance_cache()
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            monkeypatch.delenv(name)
        monkeypatch.setenv("HOME", str(tmp_path))
        with pytest.raises(errors.SourceUnavailable, match="credentials"):
            open_source(bucket)
