"""A directory held open: chdir, renames, deletions and foreign hands on descriptors lose none of its files."""

from __future__ import annotations

import contextlib
import os
import resource
import shutil
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import pytest
from small_disk import small_disk_at

from esper_core.runs import RunDir, RunRecord, read_record, write_record
from esper_core.runs.folder import Folder
from esper_core.runs.reserve import drop_reserve, keep_reserve, replace_reserved

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(params=["handle", "path"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """With descriptors of directories, and as on a system without them."""
    if request.param == "path":
        monkeypatch.setattr("esper_core.runs.folder._BY_HANDLE", False)
    return str(request.param)


@pytest.fixture
def place(tmp_path: Path) -> Path:
    made = tmp_path / "runs" / "one"
    made.mkdir(parents=True)
    return made


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 128 KiB."""
    with small_disk_at(tmp_path / "small", 128, lazily=True) as place:
        yield place


def put(folder: Folder, name: str, content: bytes) -> None:
    folder.replace(name, content)


def test_a_changed_working_directory_changes_nothing(
    way: str, place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pathlib import Path as AnyPath

    monkeypatch.chdir(tmp_path)
    with Folder(AnyPath("runs/one")) as folder:
        elsewhere = tmp_path / "elsewhere"
        elsewhere.mkdir()
        monkeypatch.chdir(elsewhere)
        put(folder, "a", b"1")
        os.close(folder.open("telemetry/b", os.O_WRONLY | os.O_CREAT))
        assert folder.path == place
        assert sorted(folder.names()) == ["a", "telemetry"], way
        assert folder.names("telemetry") == ["b"]
        assert folder.names("missing") == []
    assert (place / "a").read_bytes() == b"1"
    assert not list(elsewhere.iterdir())


def test_a_renamed_directory_gets_what_is_written(place: Path, tmp_path: Path) -> None:
    with Folder(place) as folder:
        put(folder, "a", b"1")
        moved = place.rename(tmp_path / "moved")
        put(folder, "a", b"2")
        assert folder.path == moved
    assert (moved / "a").read_bytes() == b"2"
    assert not place.exists()


def test_a_deleted_directory_is_made_again(way: str, place: Path) -> None:
    said: list[str] = []
    with Folder(place, on_renewed=said.append) as folder:
        shutil.rmtree(place.parent)
        assert folder.stat("a") is None
        assert not place.exists(), "looking makes nothing"
        put(folder, "a", b"1")
        put(folder, "b", b"2")
        assert folder.path == place
    assert (place / "a").read_bytes() == b"1"
    if way == "handle":
        assert said == [f"{place} was deleted, and has been made again"]


def test_a_directory_that_someone_else_made_again_is_used(place: Path) -> None:
    with Folder(place) as folder:
        place.rename(place.with_name("former"))
        shutil.rmtree(place.with_name("former"))
        place.mkdir()
        put(folder, "a", b"1")
    assert (place / "a").read_bytes() == b"1"


def test_the_number_of_a_descriptor_that_someone_closed_is_not_trusted(place: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    with Folder(place) as folder:
        assert folder._fd is not None
        os.close(folder._fd)
        taken = os.open(other, os.O_RDONLY)
        assert taken == folder._fd
        put(folder, "a", b"1")
    assert not list(other.iterdir())
    os.close(taken)
    assert (place / "a").read_bytes() == b"1"


def test_a_write_that_fails_leaves_the_old_file_and_nothing_beside_it(way: str, place: Path) -> None:
    def half(file: IO[bytes]) -> None:
        file.write(b"half")
        raise KeyboardInterrupt

    with Folder(place) as folder:
        put(folder, "a", b"old")
        with pytest.raises(KeyboardInterrupt):
            folder.replace("a", half)
    assert [path.name for path in place.iterdir()] == ["a"], way
    assert (place / "a").read_bytes() == b"old"


def test_a_missing_directory_is_an_error_at_once(way: str, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        Folder(tmp_path / way)


def test_the_umask_applies(place: Path) -> None:
    before = os.umask(0o002)
    try:
        with Folder(place) as folder:
            put(folder, "a", b"1")
    finally:
        os.umask(before)
    assert (place / "a").stat().st_mode & 0o777 == 0o664


# --- a full disk --------------------------------------------------------------------------------


def fill(disk: Path) -> None:
    """Take every byte that is left, as a journal would."""
    with (disk / "ballast").open("ab", buffering=0) as file:
        try:
            while True:
                file.write(bytes(4096))
        except OSError:
            return


def test_on_a_full_disk_the_reserve_takes_the_file_again_and_again(small_disk: Path) -> None:
    with Folder(small_disk) as folder:
        put(folder, "run.json", b"0" * 3000)
        keep_reserve(folder, "run.json")
        fill(small_disk)
        with pytest.raises(OSError, match="No space left"):
            put(folder, "run.json", b"x" * 3000)
        for number in range(1, 10):
            content = str(number).encode() * 3000
            replace_reserved(folder, "run.json", content, durable=True)
            assert (small_disk / "run.json").read_bytes() == content
            fill(small_disk)
        drop_reserve(folder, "run.json")
        assert sorted(path.name for path in small_disk.iterdir()) == ["ballast", "run.json"]


def test_a_file_that_is_not_there_yet_is_written_too(small_disk: Path) -> None:
    with Folder(small_disk) as folder:
        keep_reserve(folder, "summary.json")
        fill(small_disk)
        replace_reserved(folder, "summary.json", b"1" * 5000, durable=True)
    assert (small_disk / "summary.json").read_bytes() == b"1" * 5000


def test_what_does_not_fit_leaves_the_old_file(small_disk: Path) -> None:
    with Folder(small_disk) as folder:
        put(folder, "run.json", b"old")
        keep_reserve(folder, "run.json")
        fill(small_disk)
        with pytest.raises(OSError, match="No space left"):
            replace_reserved(folder, "run.json", bytes(100_000), durable=True)
    assert (small_disk / "run.json").read_bytes() == b"old"
    assert sorted(path.name for path in small_disk.iterdir() if "reserve" not in path.name) == ["ballast", "run.json"]


def test_without_a_reserve_a_full_disk_is_an_error(small_disk: Path) -> None:
    with Folder(small_disk) as folder:
        fill(small_disk)
        keep_reserve(folder, "run.json")
        with pytest.raises(OSError, match="No space left"):
            replace_reserved(folder, "run.json", b"1", durable=False)
    assert [path.name for path in small_disk.iterdir()] == ["ballast"]


def test_a_record_is_written_on_a_full_disk(small_disk: Path) -> None:
    with Folder(small_disk) as folder:
        keep_reserve(folder, "run.json")
        write_record(folder, RunRecord(run_id="r"))
        fill(small_disk)
        for number in range(5):
            record: Any = RunRecord(run_id="r", updates=number, message="x" * 500)
            write_record(folder, record)
            assert read_record(RunDir(small_disk)) == record


def test_a_file_is_written_when_no_descriptor_is_left(place: Path) -> None:
    """An environment that leaks them would leave ``run.json`` at "live", and the policy unsaved."""
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    leaked: list[int] = []
    with Folder(place) as folder:
        folder.replace("run.json", b"live")
        try:
            resource.setrlimit(
                resource.RLIMIT_NOFILE, (max(int(path.name) for path in Path("/dev/fd").iterdir()) + 8, limits[1])
            )
            with contextlib.suppress(OSError):
                while True:
                    leaked.append(os.open(os.devnull, os.O_RDONLY))
            for content in (b"stopped", b"done"):
                folder.replace("run.json", content)
                with pytest.raises(OSError, match="Too many open files"):
                    os.open(os.devnull, os.O_RDONLY)
                assert (place / "run.json").stat().st_size == len(content)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, limits)
            for number in leaked:
                os.close(number)


def test_the_descriptor_in_reserve_is_not_closed_when_its_number_is_anothers(place: Path) -> None:
    with Folder(place) as folder:
        folder.replace("run.json", b"x")
        assert folder._spare is not None
        with (place / "run.json").open("rb") as other:
            os.dup2(other.fileno(), folder._spare)
            number = folder._spare
            folder.close()
            assert os.fstat(number).st_ino == os.fstat(other.fileno()).st_ino
        os.close(number)
