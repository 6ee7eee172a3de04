"""The spool: damage shifts nothing, what could not be written is owed, no link is followed."""

import errno
import os
import random
import stat
import time
from pathlib import Path

import pytest

from dht22 import console
from dht22.pi import spool as module
from dht22.pi.spool import Spool, Waiting, boot_id

N = 1_700_000_000_000_000


@pytest.fixture
def said(monkeypatch):
    lines = []
    for each in console, module:
        monkeypatch.setattr(each, "say", lines.append)
    return lines


@pytest.fixture
def path(tmp_path, said):
    return str(tmp_path / "kitchen.spool")


def waiting(*places):
    return [Waiting(place, boot_id(), 100.0, 1795600000.0, f"{place}.0,20.0") for place in places]


def places(queue):
    return [each.place for each in queue]


def write(path, marked, *all_places):
    """Write a spool: readings, and a mark for one of them, in the middle of the file."""
    spool = Spool(path)
    half = len(all_places) // 2
    assert spool.write(waiting(*all_places[:half]))
    spool.mark(marked, N)
    assert spool.write(waiting(*all_places[half:]))


class Full:
    """Makes calls on a spool's file fail, as a full disk would."""

    def __init__(self, spool, monkeypatch):
        self.append, self.full = spool.file.append, True
        monkeypatch.setattr(spool.file, "append", self.fail)

    def fail(self, lines):
        if self.full and lines:
            raise OSError(errno.ENOSPC, "No space left on device")
        self.append(lines)


def test_without_a_boot_id_the_age_goes_by_the_clock_alone(monkeypatch):
    read = time.time() - 5
    monkeypatch.setattr(module, "boottime", lambda: 7200.0)
    earlier = Waiting(1, "another start", 3.0, read, "50.0,20.0")
    assert earlier.age() == 7200.0, "it was read before this boot"
    monkeypatch.setattr(module, "BOOT_ID", "/no/such/file")
    assert 5 <= earlier.age() < 65


def test_a_reading_that_was_written_twice_waits_once(path):
    write(path, 2, *range(6))
    spool = Spool(path)
    spool.load()
    assert spool.write(waiting(*range(2, 8))), "as when the file was away for a while"
    assert places(spool.read()[0]) == [*range(2, 8)]


# Damage


@pytest.mark.parametrize("lost", range(1, 7))
def test_a_damaged_line_is_counted_and_shifts_nothing(path, said, lost):
    write(path, 2, *range(6))
    lines = Path(path).read_bytes().splitlines(keepends=True)  # 0 1 2 n 3 4 5
    lines[lost] = lines[lost].replace(b"20", b"21").replace(b"1", b"3")
    Path(path).write_bytes(b"".join(lines))
    if lost == 6:  # the last line is looked at when the file is opened
        Path(path).write_bytes(b"".join(lines) + waiting(9)[0].line())
    queue, n, highest = Spool(path).load()
    left = [2, 3, 4, 5] + ([9] if lost == 6 else [])
    if lost == 3:  # the mark: that 0 and 1 are done is not known any more
        assert (places(queue), n, highest) == ([0, 1, 2, 3, 4, 5], None, 0)
    else:
        left = [place for place in left if place != {1: 1, 2: 2, 4: 3, 5: 4, 6: 5}[lost]]
        assert places(queue) == left
        assert n == (None if lost == 2 else N), "the n of a reading is never another's"
        assert highest == N
    assert [line for line in said if "cannot be read" in line] == [f"{path}: 1 line cannot be read"]


@pytest.mark.parametrize("seed", [*range(30), pytest.param(4200, marks=pytest.mark.long)])
def test_whatever_is_damaged_what_is_intact_is_found(tmp_path, said, seed):
    dice = random.Random(seed)
    refused = 0
    for number in range(1 if seed < 4200 else seed):
        path = str(tmp_path / f"{number}.spool")
        write(path, 3, *range(10))
        content = Path(path).read_bytes()
        lines = content.splitlines(keepends=True)
        start, end = len(lines[0]), len(content) - len(lines[-1])
        damaged = bytearray(content)
        for _ in range(dice.choice([1, 1, 5, 50])):
            damaged[dice.randrange(start, end)] ^= dice.choice([1, 2, 16, 64, 128, 255])
        Path(path).write_bytes(damaged)
        left = [line for line in bytes(damaged).splitlines(keepends=True) if line in lines]
        intact = {int(line.split(b",")[0]) for line in left if not line.startswith(b"n")}
        marked = any(line.startswith(b"n") for line in left)
        try:
            queue, n, _ = Spool(path).load()
        except OSError as error:  # the first or the last line is not ours: it may be another's file
            assert error.errno == errno.EINVAL and Path(path).read_bytes() == damaged
            refused += 1
            continue
        assert set(places(queue)) == {place for place in intact if place >= 3 * marked}
        assert [each.reading for each in queue] == [f"{place}.0,20.0" for place in places(queue)]
        assert n == (N if marked and 3 in intact else None)
    assert refused <= 0.1 * seed


def test_a_place_is_never_given_twice(path):
    write(path, 5, *range(4))
    spool = Spool(path)
    queue, n, highest = spool.load()
    assert (queue, n, highest) == ([], None, N)
    assert spool.stamp("50.0,20.0").place == 6, "after a mark too: its reading was not spooled"


# A disk that is full


def test_a_mark_that_cannot_be_written_is_owed(path, said, monkeypatch):
    spool = Spool(path)
    spool.mark(0, N)
    assert spool.write(waiting(0, 1, 2))
    disk = Full(spool, monkeypatch)
    for place in 1, 2:  # 0 and 1 are acknowledged
        spool.mark(place, N + place)
        assert not spool.write([])
    disk.full = False
    assert not spool.write([]), "tried again after a while"
    spool.retry_at = 0.0
    assert spool.write([])
    assert said == [
        f"cannot write the spool {path} (No space left on device): readings wait in memory only",
        f"the spool {path} is written again",
    ]
    spool.file.file.close()
    queue, n, _ = Spool(path).load()
    assert (places(queue), n) == ([2], N + 2)


def test_each_time_that_the_disk_is_full_is_said_once_and_so_is_its_end(path, said, monkeypatch):
    spool = Spool(path)
    disk = Full(spool, monkeypatch)
    for place in range(3):
        disk.full = True
        for _ in range(3):
            spool.retry_at = 0.0
            assert not spool.write(waiting(place))
        disk.full = False
        for _ in range(3):
            spool.retry_at = 0.0
            assert spool.write(waiting(place))
    assert [line.split(" (")[0] for line in said] == 3 * [
        f"cannot write the spool {path}",
        f"the spool {path} is written again",
    ]


def test_written_again_is_said_when_all_is_written_and_not_before(path, said, monkeypatch):
    """A line may fit where more do not: no line comes and goes."""
    spool = Spool(path)
    assert spool.write(waiting(0))
    append = spool.file.append

    def nearly_full(lines):
        if len(lines) > 200:
            raise OSError(errno.ENOSPC, "No space left on device")
        append(lines)

    monkeypatch.setattr(spool.file, "append", nearly_full)
    for place in range(20):
        spool.mark(0, N + place)
        spool.retry_at = 0.0
        assert not spool.write(waiting(*range(1, 10)))
    assert len(said) == 1


def test_a_spool_that_cannot_be_opened_tells_what_waits_in_it(path, said, monkeypatch):
    write(path, 2, *range(6))
    before = Path(path).read_bytes()

    def read_only(*_):
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(module, "LineFile", read_only)
    monkeypatch.setattr(module, "LONG_FILE", 3)
    spool = Spool(path)
    assert spool.load() == ([], None, 0)
    assert not spool.is_long(), "it is not replaced by one without them"
    assert not spool.write(waiting(9))
    spool.clear()
    assert said == [
        f"cannot write the spool {path} (Read-only file system): readings wait in memory only",
        f"4 readings in {path}: delivered when it can be written and the client is started again",
    ]
    assert Path(path).read_bytes() == before


def test_what_is_written_is_synced_before_it_counts(path, said, monkeypatch):
    spool = Spool(path)
    calls = []
    monkeypatch.setattr(spool.file, "append", lambda lines: calls.append("append"))
    monkeypatch.setattr(spool.file, "flush", lambda: calls.append("flush"))
    spool.mark(0, N)
    assert spool.write(waiting(0, 1)) and calls == ["append", "flush"]
    assert spool.write([]) and calls == ["append", "flush"], "nothing to write, nothing written"

    def fail():
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(spool.file, "flush", fail)
    spool.mark(1, N + 1)
    assert not spool.write([]) and not spool.mark_is_written


# A file that has grown long


def test_no_link_is_followed_and_nobody_else_can_read_the_new_file(path, tmp_path):
    (tmp_path / "victim").write_text("precious")
    os.symlink("victim", tmp_path / ".kitchen.spool.dht22-new")
    write(path, 2, *range(6))
    spool = Spool(path)
    queue, n, _ = spool.load()
    spool.rewrite(queue)
    assert (tmp_path / "victim").read_text() == "precious"
    assert sorted(os.listdir(tmp_path)) == ["kitchen.spool", "victim"]
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o600
    spool.file.file.close()
    queue, again, _ = Spool(path).load()
    assert (places(queue), again) == ([2, 3, 4, 5], n)


def test_where_there_is_no_room_for_a_new_file_the_old_one_goes_on(
    path, tmp_path, said, monkeypatch
):
    """Nothing is left behind, nothing is said, and it is tried again after as many lines."""
    monkeypatch.setattr(module, "LONG_FILE", 5)
    write(path, 0, *range(6))
    spool = Spool(path)
    queue, _, _ = spool.load()
    assert spool.is_long()

    def full(fd):
        raise OSError(errno.ENOSPC, "No space left on device")

    fsync = os.fsync
    monkeypatch.setattr(os, "fsync", full)
    spool.rewrite(queue)
    assert os.listdir(tmp_path) == ["kitchen.spool"] and said == []
    assert not spool.is_long()
    monkeypatch.setattr(os, "fsync", fsync)
    assert spool.write(waiting(*range(6, 12)))
    assert spool.is_long()
    spool.rewrite(waiting(10, 11))
    assert not spool.is_long()
    assert len(Path(path).read_text().splitlines()) == 3
    assert spool.write(waiting(12)), "into the new file"
    assert len(Path(path).read_text().splitlines()) == 4
    assert spool.write(waiting(13, 14))
    assert spool.is_long(), "as before it failed"


def test_the_folder_is_synced_after_the_rename(path, tmp_path, monkeypatch):
    write(path, 2, *range(6))
    spool = Spool(path)
    queue, _, _ = spool.load()
    calls, fsync, replace = [], os.fsync, os.replace

    def note_fsync(fd):
        calls.append("folder" if stat.S_ISDIR(os.fstat(fd).st_mode) else "file")
        fsync(fd)

    def note_replace(*paths):
        calls.append("rename")
        replace(*paths)

    monkeypatch.setattr(os, "fsync", note_fsync)
    monkeypatch.setattr(os, "replace", note_replace)
    spool.rewrite(queue)
    opened = ["folder"]  # the new file, by its name
    assert calls == ["file", "rename", "folder", *opened]
