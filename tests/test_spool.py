"""The spool: damage shifts nothing, what could not be written is owed, no link is followed."""

import errno
import os
import random
import re
import stat
import time
from pathlib import Path

import pytest

from dht22 import console
from dht22.log import linefile
from dht22.pi import checksum
from dht22.pi import spool as module
from dht22.pi.spool import Spool, Waiting, boot_id

N = 1_700_000_000_000_000


@pytest.fixture
def said(monkeypatch):
    lines = []
    for each in console, checksum, module:
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


@pytest.mark.parametrize("lost", range(7))
def test_a_damaged_line_shifts_nothing(path, said, lost):
    write(path, 2, *range(6))
    lines = Path(path).read_bytes().splitlines(keepends=True)  # 0 1 2 n 3 4 5
    lines[lost] = lines[lost].replace(b"20", b"21").replace(b"1", b"3")
    Path(path).write_bytes(b"".join(lines))
    queue, n, highest = Spool(path).load()
    if lost == 3:  # the mark: that 0 and 1 are done is not known any more
        assert (places(queue), n, highest) == ([0, 1, 2, 3, 4, 5], None, 0)
    else:
        lost_place = {0: 0, 1: 1, 2: 2, 4: 3, 5: 4, 6: 5}[lost]
        assert places(queue) == [place for place in range(2, 6) if place != lost_place]
        assert n == (None if lost == 2 else N), "the n of a reading is never another's"
        assert highest == N
    assert said == [
        f"{path} was damaged: 6 lines could be read and were kept; the damaged file is now"
        f" {path}.damaged"
    ]


def flip_bits(content, dice):
    damaged = bytearray(content)
    for _ in range(dice.choice([1, 1, 5, 50])):
        damaged[dice.randrange(len(content))] ^= dice.choice([1, 2, 16, 64, 128, 255])
    return bytes(damaged)


def lose_a_page(content, dice):
    start, size = dice.randrange(len(content)), dice.choice([40, 512])
    page = dice.choice([b"\0", b"\xff"]) * size
    return content[:start] + page + content[start + size :]


def cut_pieces_out(content, dice):
    start = dice.randrange(len(content))
    return content[:start] + content[start + dice.randrange(200) :]


DAMAGES = {
    "flipped bits": flip_bits,
    "a lost page": lose_a_page,
    "a missing piece": cut_pieces_out,
    "a page before": lambda content, dice: bytes(4000) + content,
    "erased flash behind": lambda content, dice: content + b"\xff" * 512,
    "another file's end": lambda content, dice: content + b"[Unit]\nDescription=x\n",
    "a torn end of garbage": lambda content, dice: content + b"\x80\x99",
    "Windows": lambda content, dice: content.replace(b"\n", b"\r\n"),
}


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("seed", [*range(4), pytest.param(200, marks=pytest.mark.long)])
def test_whatever_is_damaged_what_is_intact_is_kept(tmp_path, said, damage, seed):
    """What stands between bytes that no line of the spool has is found; nothing is made up."""
    dice = random.Random(f"{damage} {seed}")
    for number in range(1 if seed < 200 else seed):
        path = str(tmp_path / f"{number}.spool")
        write(path, 3, *range(10))
        lines = Path(path).read_bytes().splitlines()
        damaged = DAMAGES[damage](Path(path).read_bytes(), dice)
        Path(path).write_bytes(damaged)
        loaded = []
        for _ in range(2):
            spool = Spool(path)
            loaded.append(spool.load())
            spool.file.file.close()
        kept = Path(path).read_bytes().splitlines()
        assert kept == [line for line in lines if line in kept], "in order, and none twice"
        assert {line for line in re.split(rb"[^0-9a-fn.,-]+", damaged) if line in lines} <= {*kept}
        marked = any(line.startswith(b"n") for line in kept)
        expected = [int(line.split(b",")[0]) for line in kept if not line.startswith(b"n")]
        expected = [place for place in expected if place >= 3 * marked]
        for queue, n, _ in loaded:
            assert places(queue) == expected
            assert [each.reading for each in queue] == [f"{place}.0,20.0" for place in expected]
            assert n == (N if marked and 3 in expected else None)
        copy = Path(f"{path}.damaged")
        assert not copy.exists() or copy.read_bytes() == damaged
        whole = b"".join(line + b"\n" for line in kept)
        assert copy.exists() or (damaged.rstrip(b"\0") + b"\n").startswith(whole)


@pytest.mark.parametrize("page", [b"\0", b"\xff", b"\0\xff"])
def test_a_spool_of_erased_pages_alone_is_empty(path, tmp_path, page):
    Path(path).write_bytes(page * 4096)
    spool = Spool(path)
    assert spool.load() == ([], None, 0) and spool.is_empty()
    assert os.listdir(tmp_path) == ["kitchen.spool"] and Path(path).read_bytes() == b""


@pytest.mark.parametrize("end", [b"7,abc", b"7,abc\0\0", b"\0" * 512])
def test_a_torn_end_is_cut_off_without_a_copy(path, tmp_path, end):
    write(path, 2, *range(6))
    whole = Path(path).read_bytes()
    Path(path).write_bytes(whole + end)
    assert places(Spool(path).load()[0]) == [2, 3, 4, 5]
    assert os.listdir(tmp_path) == ["kitchen.spool"] and Path(path).read_bytes() == whole


def test_a_torn_end_that_looks_like_a_line_is_none(path, said):
    """Eight digits of its time stand where a checksum would."""
    write(path, 2, *range(6))
    whole = Path(path).read_bytes()
    Path(path).write_bytes(whole + f"9,{boot_id()},100.000000,17956000".encode() + b"\0\0")
    assert places(Spool(path).load()[0]) == [2, 3, 4, 5]
    assert Path(path).read_bytes() == whole and len(said) == 1


@pytest.mark.parametrize("content", [b"# my notes\n\xff", b"7,8,9\n", b"\0\xffx"])
def test_a_file_without_a_line_of_ours_is_refused_untouched(path, tmp_path, content):
    Path(path).write_bytes(content)
    with pytest.raises(OSError, match="not a file of ours"):
        Spool(path)
    assert os.listdir(tmp_path) == ["kitchen.spool"] and Path(path).read_bytes() == content


def damage(path):
    """Write a spool whose first line is damaged, with 2, 3, 4 and 5 waiting in it."""
    write(path, 2, *range(6))
    Path(path).write_bytes(b"x" + Path(path).read_bytes())
    return Path(path).read_bytes()


def test_a_copy_never_replaces_another(path, tmp_path):
    for copy in "kitchen.spool.damaged", "kitchen.spool.damaged.2":
        (tmp_path / copy).symlink_to("somebody's")
    damaged = damage(path)
    assert places(Spool(path).load()[0]) == [2, 3, 4, 5]
    assert (tmp_path / "kitchen.spool.damaged.3").read_bytes() == damaged
    assert not (tmp_path / "somebody's").exists()


@pytest.mark.parametrize("syncs", [0, 1], ids=["the copy", "what is intact"])
def test_where_there_is_no_room_to_restore_it_the_spool_waits(
    path, tmp_path, said, monkeypatch, syncs
):
    """It is reported as one that cannot be written, and nothing is left behind."""
    damaged = damage(path)

    def full(fd, done=[]):  # noqa: B006
        done.append(fd)
        if len(done) > syncs:
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(linefile, "sync_folder", lambda path: None)
    monkeypatch.setattr(checksum, "sync_folder", lambda path: None)
    monkeypatch.setattr(os, "fsync", full)
    spool = Spool(path)
    assert spool.load() == ([], None, 0)
    assert os.listdir(tmp_path) == ["kitchen.spool"] and Path(path).read_bytes() == damaged
    assert [line.partition(" (")[0] for line in said if "cannot write" in line] == [
        f"cannot write the spool {path}"
    ]
    assert said[-1].startswith(f"4 readings in {path}: delivered when it can be written")


class Killed(BaseException):
    pass


@pytest.mark.parametrize("call, number", [("fsync", 1), ("fsync", 2), ("fsync", 3), ("replace", 1)])
@pytest.mark.parametrize("before", [True, False], ids=["before", "after"])
def test_killed_while_a_damaged_spool_is_restored(path, said, monkeypatch, call, number, before):
    damaged = damage(path)
    original, left = getattr(os, call), [None] * number

    def kill(*arguments):
        left.pop()
        if before and not left:
            raise Killed
        original(*arguments)
        if not left:
            raise Killed

    with monkeypatch.context() as patched, pytest.raises(Killed):
        patched.setattr(os, call, kill)
        Spool(path)
    queue, n, _ = Spool(path).load()
    assert (places(queue), n) == ([2, 3, 4, 5], N)
    assert Path(f"{path}.damaged").read_bytes() == damaged


def test_a_damaged_spool_that_another_client_has_is_left_alone(path, tmp_path):
    spool = Spool(path)
    assert spool.write(waiting(0, 1))
    damaged = b"x" + Path(path).read_bytes()
    Path(path).write_bytes(damaged)
    with pytest.raises(OSError, match="another client"):
        Spool(path)
    assert os.listdir(tmp_path) == ["kitchen.spool"] and Path(path).read_bytes() == damaged


def test_a_place_is_never_given_twice(path):
    write(path, 5, *range(4))
    spool = Spool(path)
    queue, n, highest = spool.load()
    assert (queue, n, highest) == ([], None, N)
    assert spool.stamp("50.0,20.0").place == 6, "after a mark too: its reading was not spooled"


def test_a_spool_torn_at_any_byte(path, tmp_path):
    """After a power cut: the first of the waiting readings, unchanged, the oldest with its n."""
    read = ["50.0,20.1", "50.1,-10.5", "100.0,-40.0"]
    written = Spool(path)
    written.mark(0, N)
    assert written.write(
        Waiting(k, boot_id(), 1234.5, 1_700_000_000.0, reading) for k, reading in enumerate(read)
    )
    whole = Path(path).read_bytes()
    for cut in range(len(whole) + 1):
        torn = tmp_path / f"{cut}.spool"
        torn.write_bytes(whole[:cut])
        queue, first, _ = Spool(str(torn)).load()
        found = [each.reading for each in queue]
        assert found == read[: len(found)], f"cut after {cut} bytes, {whole[:cut][-30:]}"
        assert first == N or not found, (
            f"cut after {cut} bytes: sent again with another n, and so logged twice"
        )


def test_a_first_reading_that_was_spooled_before_it_was_sent_has_no_n(path):
    """As after SIGTERM between the two: it must be sent with an n of its own, not with 0."""
    written = Spool(path)
    assert written.write([written.stamp("50.0,20.1")])
    written.file.file.close()
    waiting, n, highest = Spool(path).load()
    assert [each.reading for each in waiting] == ["50.0,20.1"]
    assert (n, highest) == (None, 0)


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


@pytest.mark.parametrize(
    "home, there, owner, remedy",
    [
        ("my home", "k.spool", 1, "if it is from a start with sudo: sudo chown $USER {}"),
        ("my home", "", 1, "if it is from a start with sudo: sudo chown $USER {}"),
        ("my home", "k.spool", 0, "chmod u+w {}"),
        ("other", "k.spool", 1, "if it is from a start with sudo: sudo chown $USER {}"),
        ("other", "", 1, None),
        ("my home/state", "", 1, None),
    ],
)
def test_a_spool_that_this_user_may_not_write_tells_a_remedy_that_harms_nothing(
    tmp_path, said, monkeypatch, home, there, owner, remedy
):
    folder = tmp_path / "my home" / "state"
    folder.mkdir(parents=True)
    path = folder / there
    path.touch()
    monkeypatch.setenv("HOME", str(tmp_path / home))
    monkeypatch.setattr(os, "geteuid", lambda: path.stat().st_uid + owner)

    def denied(*_):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(module, "LineFile", denied)
    Spool(str(folder / "k.spool"))
    remedy = remedy and remedy.format(f"'{path}'") + "; then start the client again"
    assert said == [
        f"cannot write the spool {folder / 'k.spool'} (Permission denied): readings wait in memory"
        f" only; {remedy or 'give a --spool in a folder of this user'}"
    ]


def test_a_spool_in_a_folder_that_is_missing_tells_to_make_it(tmp_path, said):
    Spool(str(tmp_path / "my folder" / "k.spool"))
    assert said[0].endswith(
        f"; make its folder: mkdir -p '{tmp_path}/my folder'; then start the client again"
    )


def test_a_current_folder_that_was_removed_is_told(tmp_path, said, monkeypatch):
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    Spool("k.spool")
    reason = "(No such file or directory): readings wait in memory only"
    assert said == [f"cannot write the spool k.spool {reason}"]


def test_a_pipe_is_no_spool_and_nothing_waits_for_it(path):
    os.mkfifo(path)
    with pytest.raises(OSError, match="not a regular file"):
        Spool(path)


# A file that has grown long


def test_a_user_s_own_files_beside_the_spool_stay(path, tmp_path):
    """Whether it is shortened, as here, or restored."""
    mine = tmp_path / "kitchen.spool.new"
    mine.write_text("my notes")
    damage(path)
    spool = Spool(path)
    spool.rewrite(spool.load()[0])
    assert mine.read_text() == "my notes"
    assert {each.name for each in tmp_path.iterdir()} == {
        *["kitchen.spool", "kitchen.spool.damaged", "kitchen.spool.new"]
    }


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


def test_a_link_to_the_spool_stays(path, tmp_path):
    elsewhere = tmp_path / "other disk"
    elsewhere.mkdir()
    os.symlink(elsewhere / "k", path)
    write(path, 2, *range(6))
    spool = Spool(path)
    queue, n, _ = spool.load()
    spool.rewrite(queue)
    assert os.path.islink(path) and os.listdir(elsewhere) == ["k"]
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


def test_file_and_folder_are_synced_after_the_rename(path, tmp_path, monkeypatch):
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
    assert calls == ["file", "rename", "file", "folder", *opened], "FAT needs the file once more"
