"""The store: a record is all there or it does not exist, whatever happens while it is written."""

import errno
import json
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from distill_ray.errors import RequestError, RunError, StoreError
from distill_ray.store import FOLDERS, MANIFEST, MARK, Store

WEIGHTS = {"weights.safetensors": b"w" * 1000, "epochs.parquet": b""}


@pytest.fixture(params=["local", "remote"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    """A store in a folder, and one on another kind of file system (in memory)."""
    return Store.open(
        str(tmp_path / "store") if request.param == "local" else "mock:///bucket/prefix"
    )


@pytest.fixture
def local(tmp_path: Path) -> Store:
    return Store.open(str(tmp_path / "store"))


def manifest_of(store: Store, key: str) -> dict[str, dict[str, dict[str, str]]]:
    content = store.read(f"{key}/{MANIFEST}")
    assert content is not None
    manifest: dict[str, dict[str, dict[str, str]]] = json.loads(content)
    return manifest


def test_a_record_is_found_as_it_was_put(store: Store) -> None:
    put = store.put("jobs/a", WEIGHTS, {"accuracy": 0.5, "milestones": (1, 2)})
    got = store.get("jobs/a")
    assert got is not None
    assert got == put
    assert got.info == {"accuracy": 0.5, "milestones": [1, 2]}
    assert {name: got.read(name) for name in got.files} == WEIGHTS


def test_what_was_never_put_is_not_there(store: Store) -> None:
    assert store.get("jobs/a") is None
    assert store.read("jobs/a/nothing") is None
    assert store.names("jobs") == []
    store.delete("jobs/a")


def test_a_record_without_files(store: Store) -> None:
    store.put("empty", {}, {})
    record = store.get("empty")
    assert record is not None
    assert record.files == {}


def test_files_without_a_manifest_are_not_a_record(store: Store) -> None:
    store.write("jobs/a/1234/weights.safetensors", b"w")
    assert store.get("jobs/a") is None


def test_putting_again_replaces_the_record_and_a_reader_of_the_old_one_can_finish(
    store: Store,
) -> None:
    old = store.put("jobs/a", {"weights": b"old"}, {"try": 1})
    store.put("jobs/a", {"weights": b"newer"}, {"try": 2})
    new = store.get("jobs/a")
    assert new is not None
    assert new.info == {"try": 2}
    assert new.read("weights") == b"newer"
    assert old.read("weights") == b"old"


def test_two_keys_do_not_mix(store: Store) -> None:
    store.put("jobs/a", {"weights": b"a"}, {})
    store.put("jobs/a/evaluations/test", {"weights": b"t"}, {})
    job, evaluation = store.get("jobs/a"), store.get("jobs/a/evaluations/test")
    assert job is not None
    assert evaluation is not None
    assert (job.read("weights"), evaluation.read("weights")) == (b"a", b"t")


@pytest.mark.parametrize(
    "damage",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b'"text"',
        b"\xff\xfe",
        b'{"info": {}}',
        b'{"files": {}}',
        b'{"info": 3, "files": {}}',
        b'{"info": {}, "files": []}garbage',
        b'{"info": {}, "files": {"weights": {}}}',
        b'{"info": {}, "files": {"weights": 7}}',
        b'{"info": {}, "files": {"weights": {"path": ["a"], "bytes": 1}}}',
        b'{"info": {}, "files": {"weights": {"path": 5, "bytes": 1}}}',
        b'{"info": {}, "files": {"weights": {"path": "jobs/a/gone", "bytes": 1, "sha256": "0"}}}',
    ],
)
def test_a_damaged_manifest_is_set_aside(store: Store, damage: bytes) -> None:
    store.write(f"jobs/a/{MANIFEST}", damage)
    assert store.get("jobs/a") is None
    names = store.names("jobs/a")
    assert MANIFEST not in names
    (aside,) = (name for name in names if name.startswith(f"{MANIFEST}.damaged-"))
    assert store.read(f"jobs/a/{aside}") == damage


def test_a_cut_short_or_missing_file_voids_the_record_at_once(store: Store) -> None:
    for key, harm in (("short", b"www"), ("missing", None)):
        store.put(key, WEIGHTS, {})
        path = manifest_of(store, key)["files"]["weights.safetensors"]["path"]
        if harm is None:
            store.delete(path)
        else:
            store.write(path, harm)
        assert store.get(key) is None
        assert MANIFEST not in store.names(key)


def test_a_changed_byte_is_found_when_the_file_is_read(store: Store) -> None:
    record = store.put("jobs/a", WEIGHTS, {})
    path = manifest_of(store, "jobs/a")["files"]["weights.safetensors"]["path"]
    store.write(path, b"w" * 999 + b"x")
    assert store.get("jobs/a") == record
    with pytest.raises(
        RunError, match=r"weights.safetensors is damaged; its record was set aside, and running"
    ):
        record.read("weights.safetensors")
    assert store.get("jobs/a") is None
    assert (
        store.put("jobs/a", WEIGHTS, {}).read("weights.safetensors")
        == WEIGHTS["weights.safetensors"]
    )


def test_a_file_that_vanished_after_the_record_was_found(store: Store) -> None:
    record = store.put("jobs/a", WEIGHTS, {})
    store.delete(record.files["epochs.parquet"]["path"])
    with pytest.raises(RunError, match=r"epochs.parquet is missing"):
        record.read("epochs.parquet")


def test_files_and_folders(store: Store) -> None:
    store.write("work/a/checkpoint", b"1")
    store.write("work/a/checkpoint", b"22")
    store.write("work/b/checkpoint", b"3")
    assert store.read("work/a/checkpoint") == b"22"
    assert store.names("work") == ["a", "b"]
    assert store.names("") == [MARK, "work"]
    store.delete("work/a")
    assert store.names("work") == ["b"]
    store.delete("work/b/checkpoint")
    assert store.read("work/b/checkpoint") is None


def test_what_a_killed_write_left_is_not_listed(local: Store) -> None:
    local.write("work/a", b"1")
    Path(local.uri, "work", ".a.0123abcd").write_bytes(b"half")
    assert local.names("work") == ["a"]


def test_a_store_can_be_sent_to_another_process(local: Store) -> None:
    local.put("jobs/a", WEIGHTS, {})
    copy = pickle.loads(pickle.dumps(local))
    assert copy == local
    assert copy.get("jobs/a").read("epochs.parquet") == b""


def test_the_same_folder_under_other_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    stores = [
        Store.open(uri)
        for uri in ("store", "~/store", f"{tmp_path}/store", (tmp_path / "store").as_uri())
    ]
    assert len(set(stores)) == 1
    assert all(store.is_local for store in stores)
    stores[0].put("jobs/a", WEIGHTS, {})
    monkeypatch.chdir("/")
    assert stores[0].get("jobs/a") is not None


def test_opening_leaves_only_the_mark_behind(store: Store) -> None:
    assert store.names("") == [MARK]
    assert Store.open(store.uri).names("") == [MARK]


@pytest.mark.parametrize("place", ["local", "mock"])
def test_a_store_that_is_only_read_is_not_made(tmp_path: Path, place: str) -> None:
    uri = str(tmp_path / "store") if place == "local" else "mock:///bucket/never"
    for _ in range(2):
        with pytest.raises(
            RequestError, match=r"/(store|never): there is none; running a study makes it"
        ):
            Store.open(uri, make=False)
    assert not list(tmp_path.iterdir())
    (tmp_path / "store").mkdir()
    if place == "local":
        assert Store.open(uri) == Store.open(uri, make=False)


def test_paths_on_disk_are_for_local_stores(tmp_path: Path) -> None:
    path = Store.open(str(tmp_path)).local_path("studies/quickstart/search.journal")
    assert path == tmp_path / "studies" / "quickstart" / "search.journal"
    assert not path.parent.exists()
    with pytest.raises(RequestError, match=r"store mock:///b: studies/x must lie on a local disk"):
        Store.open("mock:///b").local_path("studies/x")


@pytest.mark.parametrize(
    ("uri", "reason"),
    [
        ("nosuch://bucket/prefix", "'nosuch' is not a kind of address that can be used here"),
        ("file://relative/path", r"not understood \(.*\); choose another with --store"),
    ],
)
def test_a_store_that_is_not_understood(uri: str, reason: str) -> None:
    with pytest.raises(RequestError, match=f"store '?{uri}'?: {reason}"):
        Store.open(uri)
    with pytest.raises(RequestError, match=f"store '?{uri}'?: {reason}"):
        Store.at(uri).names("jobs")


def test_a_store_that_is_not_there_yet_is_empty(tmp_path: Path) -> None:
    store = Store.at(str(tmp_path / "store"))
    assert (store.get("jobs/a"), store.read("jobs/a"), store.names("jobs"), store.tree("jobs")) == (
        None,
        None,
        [],
        [],
    )
    with pytest.raises(StoreError, match=r"it is gone, or was never made \(store.json is missing"):
        store.write("studies/a/notes", b"x")
    assert not (tmp_path / "store").exists()


def test_a_store_that_cannot_be_a_folder(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    for make in (True, False):
        with pytest.raises(RequestError, match="file: it is a file, and a store is a folder"):
            Store.open(str(tmp_path / "file"), make=make)
    with pytest.raises(RequestError, match="cannot be written"):
        Store.open(str(tmp_path / "file" / "store"))


def test_a_full_disk_is_named_and_leaves_the_old_content(
    local: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    local.put("jobs/a", {"weights": b"old"}, {})

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(
        RunError, match=r"no space left while writing jobs/a/manifest.json; free some space"
    ) as caught:
        local.put("jobs/a", {"weights": b"new"}, {})
    assert not isinstance(caught.value, RequestError)
    record = local.get("jobs/a")
    assert record is not None
    assert record.read("weights") == b"old"
    assert [path.name for path in Path(local.uri).rglob(".*")] == []


def test_a_disk_that_is_full_from_the_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*paths: object) -> None:
        raise OSError(errno.EDQUOT, os.strerror(errno.EDQUOT))

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(RequestError, match=r"cannot be written .*quota"):
        Store.open(str(tmp_path))
    assert list(tmp_path.iterdir()) == []


def test_a_store_that_breaks_while_in_use(local: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    local.write("a", b"1")
    with pytest.raises(
        RunError, match=r"store .*: a/b cannot be reached \(.*\); run the same command again"
    ):
        local.write("a/b", b"2")
    with pytest.raises(RunError, match="a/b cannot be reached"):
        local.read("a/b")
    with pytest.raises(RunError, match="a cannot be reached"):
        local.names("a")


KILLED_WRITER = """
import sys
from distill_ray.store import Store

store = Store(sys.argv[1])
print("ready", flush=True)
while True:
    for digit in range(10):
        content = str(digit).encode() * 3_000_000
        store.write("file", content)
        store.put("record", {"weights": content}, {"digit": digit})
"""


def test_a_killed_writer_leaves_the_old_content_or_the_new(local: Store) -> None:
    for delay in (0.05, 0.11, 0.23):
        writer = subprocess.Popen(
            [sys.executable, "-c", KILLED_WRITER, local.uri], stdout=subprocess.PIPE
        )
        try:
            assert writer.stdout is not None
            writer.stdout.readline()
            time.sleep(delay)
        finally:
            writer.send_signal(signal.SIGKILL)
            writer.wait()
        content = local.read("file")
        assert content is None or (len(content) == 3_000_000 and len(set(content)) == 1)
        record = local.get("record")
        assert (
            record is None
            or record.read("weights") == str(record.info["digit"]).encode() * 3_000_000
        )
        assert set(local.names("")) <= {"file", "record", MARK}


def test_readers_see_whole_records_while_others_write(local: Store) -> None:
    finished = threading.Event()
    seen: list[str] = []
    troubles: list[Exception] = []

    def read() -> None:
        try:
            while not finished.is_set():
                record = local.get("record")
                if record is not None:
                    seen.append(record.info["content"])
                    assert record.read("weights") == record.info["content"].encode()
        except (AssertionError, RunError) as trouble:
            troubles.append(trouble)

    def write(content: str) -> None:
        for _ in range(30):
            local.put("record", {"weights": content.encode()}, {"content": content})

    reader = threading.Thread(target=read)
    writers = [threading.Thread(target=write, args=(letter * 5000,)) for letter in "abc"]
    for thread in (reader, *writers):
        thread.start()
    for thread in writers:
        thread.join()
    finished.set()
    reader.join()
    assert not troubles
    assert seen


@pytest.mark.parametrize("name", FOLDERS)
def test_a_folder_of_something_else_is_not_made_a_store(tmp_path: Path, name: str) -> None:
    (tmp_path / name).mkdir()
    (tmp_path / name / "thesis.tex").write_text("mine")
    with pytest.raises(RequestError, match=f"it holds a folder {name} but no store.json"):
        Store.open(str(tmp_path))
    with pytest.raises(RequestError, match="there is none"):
        Store.open(str(tmp_path), make=False)
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_a_store_beside_other_files(tmp_path: Path) -> None:
    (tmp_path / "study.yaml").write_text("name: x")
    Store.open(str(tmp_path)).write("jobs/a/b", b"c")
    assert Store.open(str(tmp_path), make=False).tree("jobs")[0][0] == "jobs/a/b"


@pytest.mark.parametrize("what", ["removed", "moved", "emptied"])
def test_a_store_that_goes_while_it_is_used_is_not_made_anew(local: Store, what: str) -> None:
    local.put("jobs/a", WEIGHTS, {})
    folder = Path(local.uri)
    folder.rename(folder.with_name("elsewhere"))
    if what == "emptied":
        folder.mkdir()
    for write in (
        lambda: local.put("jobs/b", WEIGHTS, {}),
        lambda: local.write("work/b/checkpoint", b"1", durable=True),
    ):
        with pytest.raises(StoreError, match="it is gone, or was never made"):
            write()
    assert not folder.exists() or not list(folder.iterdir())


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    """A folder that is none of the store's."""
    folder = tmp_path / "outside"
    (folder / "deep").mkdir(parents=True)
    for name in ("precious", "deep/precious"):
        (folder / name).write_text("mine")
    return folder


@pytest.mark.parametrize("link", ["jobs", "jobs/zz", "jobs/zz/deep", "jobs/zz/file"])
def test_nothing_behind_a_link_is_listed_or_removed(local: Store, outside: Path, link: str) -> None:
    local.write("logs/a.log", b"x")
    at = local.local_path(link)
    at.parent.mkdir(parents=True, exist_ok=True)
    at.symlink_to(outside / "precious" if link.endswith("file") else outside)
    assert [path for path, _, _ in local.tree("")] == ["logs/a.log", MARK]
    assert local.tree(link) == []
    for path in ("precious", "deep"):
        with pytest.raises(StoreError, match="is a link; nothing is removed behind it"):
            local.delete(f"{link}/{path}/manifest.json")
    local.delete("jobs")
    assert not os.path.lexists(at)
    assert sorted(path.name for path in outside.rglob("*")) == ["deep", "precious", "precious"]


def test_a_walk_ends_where_links_go_round(local: Store) -> None:
    local.write("jobs/a/b", b"c")
    for name in ("up", "again"):
        local.local_path(f"jobs/a/{name}").symlink_to("..")
    os.mkfifo(local.local_path("jobs/a/pipe"))
    assert [path for path, _, _ in local.tree("jobs")] == ["jobs/a/b"]


@pytest.mark.parametrize("path", ["../outside", "jobs/../../outside", "", "."])
def test_nothing_outside_the_store_is_removed(local: Store, outside: Path, path: str) -> None:
    with pytest.raises(StoreError, match="is not below"):
        local.delete(path)
    assert (outside / "precious").exists() and Path(local.uri).exists()


@pytest.mark.parametrize("uri", ["s3//KEY:SECRET@b/x", "s3:/KEY:SECRET@b/x", "s3:x", "abc:x"])
def test_a_mistyped_address_is_no_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, uri: str
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(RequestError, match="write one of file://, s3://") as caught:
        Store.open(uri)
    assert "SECRET" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_the_home_of_nobody() -> None:
    with pytest.raises(RequestError, match="store ~nosuchuser/x: "):
        Store.at("~nosuchuser/x")


def test_a_store_may_be_named_by_its_way_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "studies" / "deep").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "studies" / "deep")
    monkeypatch.chdir(tmp_path / "studies")
    for name, folder in (("../a", "a"), ("../link/../b", "studies/b")):
        store = Store.open(name, make=True)
        assert store.uri == str(tmp_path / folder)
        store.write("x/y", b"1")
        store.delete("x")
        assert not (tmp_path / folder / "x").exists()
