"""A log is read on from a position, whatever rotation, editors and power cuts do to its files."""

import gzip
import itertools
import os
import shutil

import pytest

from dht22.log import follow
from dht22.log.follow import RESTED, Follower
from dht22.log.position import Position
from dht22.log.rotated import BLOCK
from support.made import HEADER, row
from support.rotation import (
    COMPRESS,
    ROTATIONS,
    append,
    beside,
    pack,
    rename,
    rename_and_create,
    rename_and_pack,
)

LONG = 2 * BLOCK // len(row(0))  # rows, more than a block of them


class Reader:
    """Reads as publish.py does: keeps a position, and is killed and started again."""

    def __init__(self, log, capfd):
        self.log = log
        self.capfd = capfd
        self.position = Position()
        self.start()

    def start(self):
        self.follower = Follower(self.log, self.position)

    def warnings(self):
        """Return what was said since this was asked before."""
        return self.capfd.readouterr().err.splitlines()

    def rows(self):
        """Return the rows that are new."""
        found = []
        for some in iter(self.follower.read, []):
            self.position = some[-1]
            found += [position.line.decode() + "\n" for position in some]
        return found


@pytest.fixture(params=["running", "restarted"])
def reader(request, tmp_path, capfd):
    """Return a reader that keeps its file open, and one that is started again for each look."""
    reader = Reader(tmp_path / "datalog.csv", capfd)
    if request.param == "restarted":
        look = reader.rows

        def look_again():
            reader.start()
            return look()

        reader.rows = look_again
    return reader


@pytest.mark.parametrize("rotate", ROTATIONS)
def test_rotated(reader, rotate):
    append(reader.log, row(0), row(1))
    assert reader.rows() == [row(0), row(1)]
    append(reader.log, row(2))
    rotate(reader.log)
    assert reader.rows() == [row(2)]
    append(reader.log, row(3), row(4))
    assert reader.rows() == [row(3), row(4)]
    append(reader.log, row(5))
    assert reader.rows() == [row(5)]
    assert reader.warnings() == []


@pytest.mark.parametrize("rotate", ROTATIONS)
def test_rotated_and_written_to_before_the_next_look(reader, rotate):
    append(reader.log, row(0))
    assert reader.rows() == [row(0)]
    append(reader.log, row(1))
    rotate(reader.log)
    append(reader.log, row(2))
    assert reader.rows() == [row(1), row(2)]
    assert reader.warnings() == []


def test_rotated_twice_before_the_next_look(reader):
    append(reader.log, row(0))
    assert reader.rows() == [row(0)]
    for k, name in enumerate([".2", ".1"]):
        append(reader.log, row(10 * k + 1), row(10 * k + 2))
        reader.log.rename(beside(reader.log, name))
        os.utime(beside(reader.log, name), (k, k))
    append(reader.log, row(30))
    assert reader.rows() == [row(1), row(2), row(11), row(12), row(30)]


def test_a_file_that_is_shifted_and_packed_is_not_read_again(reader):
    append(reader.log, row(0))
    reader.rows()
    rename(reader.log)
    append(reader.log, row(1))
    assert reader.rows() == [row(1)]
    beside(reader.log, ".1").rename(beside(reader.log, ".2"))
    pack(beside(reader.log, ".2"))
    rename(reader.log)
    append(reader.log, row(2))
    assert reader.rows() == [row(2)]


def test_a_late_row_in_the_renamed_file(reader):
    """The server looks for its log, logrotate renames that, and then the server writes."""
    append(reader.log, row(0))
    assert reader.rows() == [row(0)]
    rename(reader.log)
    assert reader.rows() == []
    append(beside(reader.log, ".1"), row(1))
    append(reader.log, row(2))
    assert reader.rows() == [row(1), row(2)]


def test_first_row_older_than_the_other_files(reader):
    """A reading that was spooled is logged with the time at which it was read."""
    append(reader.log, row(1000), row(2000))
    reader.rows()
    rename(reader.log)
    append(reader.log, row(5), row(3000))
    assert reader.rows() == [row(5), row(3000)]


@pytest.mark.parametrize("mtimes", [(1, 2), (2, 1)])
def test_clock_set_back(reader, mtimes):
    """The order may be wrong then, but all are read."""
    append(reader.log, row(9000))
    assert reader.rows() == [row(9000)]
    rename(reader.log)
    append(beside(reader.log, ".0"), row(50), row(60))
    for name, mtime in zip((".1", ".0"), mtimes):
        os.utime(beside(reader.log, name), (mtime, mtime))
    append(reader.log, row(7), row(6))
    assert reader.rows() == [row(50), row(60), row(7), row(6)]


def test_bak_and_half_written_copy_beside_the_log(reader):
    append(reader.log, *map(row, range(9)))
    assert len(reader.rows()) == 9
    shutil.copy(reader.log, beside(reader.log, ".bak"))
    content = reader.log.read_bytes()
    beside(reader.log, ".1").write_bytes(content[: len(content) // 2])
    beside(reader.log, ".2.gz").write_bytes(gzip.compress(content)[:-20])
    beside(reader.log, ".swp").write_bytes(bytes(range(256)) * 99)
    beside(reader.log, ".d").mkdir()
    append(reader.log, row(9))
    assert reader.rows() == [row(9)]
    rename_and_pack(reader.log)
    assert reader.rows() == []
    append(reader.log, row(10))
    assert reader.rows() == [row(10)]


def test_of_two_copies_the_one_with_more_rows_is_read(reader):
    """Though packed it has fewer bytes."""
    append(reader.log, row(0))
    assert reader.rows() == [row(0)]
    append(reader.log, *map(row, range(1, 200)))
    shutil.copy(reader.log, beside(reader.log, ".bak"))
    append(reader.log, *map(row, range(200, 250)))
    rename_and_pack(reader.log)
    append(reader.log, row(250))
    assert reader.rows() == [row(k) for k in range(1, 251)]


def test_older_file_put_beside_the_log_waits_until_the_live_one_is_left(reader):
    append(reader.log, row(0))
    reader.rows()
    append(beside(reader.log, ".old"), row(77))
    append(reader.log, row(1))
    assert reader.rows() == [row(1)]
    append(reader.log, row(2))
    rename(reader.log)
    append(reader.log, row(3))
    assert reader.rows() == [row(2), row(77), row(3)]


def test_the_file_under_way_is_not_left_for_an_older_one(reader):
    """It was renamed, and the server may still write to it."""
    append(reader.log, row(0))
    assert reader.rows() == [row(0)]
    append(beside(reader.log, ".old"), row(77))
    os.utime(beside(reader.log, ".old"), (1, 1))
    rename(reader.log)
    assert reader.rows() == []
    append(beside(reader.log, ".1"), row(1))
    assert reader.rows() == [row(1)]
    append(reader.log, row(2))
    assert reader.rows() == [row(77), row(2)]


def test_header_only(reader):
    append(reader.log)
    assert reader.rows() == []
    append(reader.log, row(0))
    assert reader.rows() == [row(0)]
    rename(reader.log)
    append(reader.log)
    assert reader.rows() == []
    beside(reader.log, ".1").rename(beside(reader.log, ".2"))
    rename(reader.log)
    append(reader.log, row(1))
    assert reader.rows() == [row(1)]
    assert reader.warnings() == []


def test_log_not_there_yet(reader):
    reader.log = reader.follower.path = reader.log.with_name("later") / "datalog.csv"
    assert reader.rows() == []
    reader.log.parent.mkdir()
    append(reader.log, row(0))
    assert reader.rows() == [row(0)]


def move_away(log):
    log.with_name("old").mkdir()
    log.rename(log.with_name("old") / log.name)


@pytest.mark.parametrize("go", [os.remove, move_away])
def test_log_removed_or_moved_to_another_folder(tmp_path, capfd, go):
    reader = Reader(tmp_path / "datalog.csv", capfd)
    append(reader.log, row(0))
    assert reader.rows() == [row(0)]
    append(reader.log, row(1))
    go(reader.log)
    append(reader.log, row(2))
    assert reader.rows() == [row(1), row(2)], "the file is still open"
    assert reader.warnings() == []


def test_log_moved_to_another_folder_while_nobody_reads(tmp_path, capfd):
    reader = Reader(tmp_path / "datalog.csv", capfd)
    append(reader.log, row(0))
    assert reader.rows() == [row(0)]
    append(reader.log, row(1))
    move_away(reader.log)
    append(reader.log, row(2))
    reader.start()
    assert reader.rows() == [row(2)]
    (warning,) = reader.warnings()
    assert "gone" in warning
    reader.log.rename(beside(reader.log, ".1"))
    (tmp_path / "old" / "datalog.csv").rename(reader.log)
    append(reader.log, row(3))
    assert reader.rows() == [row(0), row(1), row(3)], "put back: rather twice than never"


def test_the_whole_folder_moved(tmp_path, capfd):
    reader = Reader(tmp_path / "datalog.csv", capfd)
    append(reader.log, row(0))
    reader.rows()
    (tmp_path / "new").mkdir()
    reader.log = reader.log.rename(tmp_path / "new" / "datalog.csv")
    append(reader.log, row(1))
    reader.start()
    assert reader.rows() == [row(1)]


def replaced(log, content):
    """Replace a file as an editor does: a new one is renamed."""
    new = log.with_name("new")
    new.write_bytes(content)
    new.replace(log)


def rewritten(log, content):
    with log.open("rb+") as file:
        file.write(content)
        file.truncate()


@pytest.mark.parametrize("put", [replaced, rewritten])
def test_header_put_back(reader, put):
    reader.log.write_text(row(0) + row(1) + row(2))
    assert reader.rows() == [row(0), row(1), row(2)]
    put(reader.log, HEADER.encode() + reader.log.read_bytes())
    assert reader.rows() == []
    append(reader.log, row(3))
    assert reader.rows() == [row(3)]


@pytest.mark.parametrize("put", [replaced, rewritten])
def test_an_older_line_taken_out(reader, put):
    append(reader.log, row(0), row(1), row(2))
    assert len(reader.rows()) == 3
    put(reader.log, (HEADER + row(0) + row(2) + row(3)).encode())
    assert reader.rows() == [row(3)]


def test_write_undone(reader):
    """The disk is full: what was written of a batch is cut off, and the batch is written again."""
    append(reader.log, row(0))
    assert reader.rows() == [row(0)]
    size = reader.log.stat().st_size
    append(reader.log, row(1), row(2))
    assert reader.rows() == [row(1), row(2)]
    os.truncate(reader.log, size)
    assert reader.rows() == []
    append(reader.log, row(1), row(2), row(3))
    assert reader.rows() in ([row(1), row(2), row(3)], [row(3)])


def test_write_undone_and_written_again_before_the_next_look(reader):
    append(reader.log, row(0))
    size = reader.log.stat().st_size
    append(reader.log, row(1), row(2))
    assert reader.rows() == [row(0), row(1), row(2)]
    os.truncate(reader.log, size)
    append(reader.log, row(1), row(2), row(3))
    assert reader.rows() == [row(3)]


def test_write_undone_and_other_rows_written(reader):
    """Nothing that stands there was read last: all of it is read again."""
    append(reader.log, row(0))
    size = reader.log.stat().st_size
    append(reader.log, row(1))
    assert reader.rows() == [row(0), row(1)]
    os.truncate(reader.log, size)
    append(reader.log, row(2), row(3))
    assert reader.rows() == [row(0), row(2), row(3)]


def test_copy_that_lacks_what_was_read_before_the_truncation(reader):
    append(reader.log, row(0), row(1))
    assert reader.rows() == [row(0), row(1)]
    shutil.copy(reader.log, beside(reader.log, ".1"))
    append(reader.log, row(2))
    assert reader.rows() == [row(2)]
    os.truncate(reader.log, 0)
    append(reader.log, row(3))
    assert reader.rows() == [row(3)]


def test_truncated_and_longer_than_before_at_the_next_look(reader):
    append(reader.log, row(0))
    assert reader.rows() == [row(0)]
    os.truncate(reader.log, 0)
    append(reader.log, row(1), row(2), row(3))
    assert reader.rows() == [row(1), row(2), row(3)]


def test_torn_line_is_read_once_it_is_whole(reader):
    append(reader.log, row(0), row(1)[:30])
    assert reader.rows() == [row(0)]
    append(reader.log, row(1)[30:-1])
    assert reader.rows() == []
    append(reader.log, "\n", row(2))
    assert reader.rows() == [row(1), row(2)]


def test_torn_line_is_cut_off(reader):
    append(reader.log, row(0))
    size = reader.log.stat().st_size
    append(reader.log, row(1)[:30])
    assert reader.rows() == [row(0)]
    os.truncate(reader.log, size)
    append(reader.log, row(2))
    assert reader.rows() == [row(2)]


def test_lines_that_are_no_rows(reader):
    append(reader.log, row(0), "note\n", "\0\0\xff\n", row(1, name="")[:-2] + "\n", row(2))
    assert reader.rows() == [row(0), row(2)]
    assert "no row: b'note'" in reader.warnings()[0]
    append(reader.log, "note\n", row(3, name=""))
    assert reader.rows() == [row(3, name="")]


@pytest.mark.parametrize("cut", [10, 2000, -20])
def test_packed_file_that_is_just_being_written(reader, cut):
    append(reader.log, *map(row, range(LONG)))
    whole = gzip.compress(reader.log.read_bytes())
    rename(reader.log)
    assert len(reader.rows()) == LONG
    os.remove(beside(reader.log, ".1"))
    append(reader.log, row(LONG))
    packed = beside(reader.log, ".2.gz")  # another one, that was never read
    other = (HEADER + "".join(map(row, range(10**6, 10**6 + LONG)))).encode()
    whole = gzip.compress(other)
    packed.write_bytes(whole[:cut])
    os.utime(reader.log, (1, 1))
    found = reader.rows()
    packed.write_bytes(whole)
    append(reader.log, row(LONG + 1))
    rename(reader.log)
    append(reader.log, row(LONG + 2))
    found += reader.rows()
    assert sorted(found) == sorted(
        [row(k) for k in [*range(10**6, 10**6 + LONG), LONG, LONG + 1, LONG + 2]]
    )


@pytest.mark.parametrize("ending", COMPRESS)
def test_damaged_packed_file(reader, ending):
    append(reader.log, *map(row, range(LONG)))
    rename(reader.log)
    pack(beside(reader.log, ".1"), ending)
    packed = beside(reader.log, ".1" + ending)
    os.truncate(packed, packed.stat().st_size - 20)
    append(reader.log, row(LONG))
    assert row(LONG) not in reader.rows(), "it may be just being written"
    old = packed.stat().st_mtime - RESTED - 1
    os.utime(packed, (old, old))
    assert reader.rows()[-1:] == [row(LONG)]
    assert "read as far as it goes" in reader.warnings()[-1]


def test_resumed_in_the_middle_of_a_packed_file(reader):
    append(reader.log, *map(row, range(LONG)))
    first = reader.follower.read()
    assert 0 < len(first) < LONG
    reader.position = first[99]
    rename_and_pack(reader.log)
    append(reader.log, row(LONG))
    reader.start()
    assert reader.rows() == [row(k) for k in range(100, LONG + 1)]


@pytest.mark.parametrize("go", [os.remove, move_away, pack, rename_and_create])
def test_rewound_into_a_file_that_is_gone_by_now(reader, go):
    append(reader.log, row(0), row(1), row(2))
    first = reader.follower.read()[0]
    rename(reader.log)
    append(reader.log, row(3))
    assert reader.follower.read()[-1].line.decode() + "\n" == row(3)
    go(beside(reader.log, ".1"))
    reader.follower.rewind(first)
    found = [
        position.line.decode() + "\n"
        for some in iter(reader.follower.read, [])
        for position in some
    ]
    assert found == [row(1), row(2), row(3)]


@pytest.mark.parametrize("live", [True, False])
def test_skip(reader, live):
    append(reader.log, row(0), row(1))
    rename_and_pack(reader.log)
    if live:
        append(reader.log, row(2), row(3)[:30])
    reader.follower.skip()
    reader.position = reader.follower.position
    assert reader.rows() == []
    append(reader.log, *([row(3)[30:]] if live else []), row(4))
    assert reader.rows() == ([row(3), row(4)] if live else [row(4)])


def test_skip_where_nothing_is(reader):
    reader.follower.skip()
    reader.position = reader.follower.position
    append(reader.log, row(0))
    assert reader.rows() == [row(0)]


@pytest.mark.parametrize("look", [1, 2, 3])
def test_files_shifted_while_they_are_looked_at(reader, monkeypatch, look):
    """Then a file may get the name of one that was just looked at."""
    append(reader.log, row(0), row(1))
    assert len(reader.rows()) == 2
    append(reader.log, row(2))
    rename(reader.log)
    beside(reader.log, ".0").write_text("an older one\n")
    os.utime(beside(reader.log, ".0"), (1, 1))
    append(reader.log, row(3))
    first_row = follow.first_row
    looks = []

    def shift(path):
        found = first_row(path)
        looks.extend([path] if path.suffix == ".0" else [])
        if len(looks) == look and not beside(reader.log, ".9").exists():
            path.rename(beside(reader.log, ".9"))
            beside(reader.log, ".1").rename(path)
            rename(reader.log)
            append(reader.log, row(4))
        return found

    monkeypatch.setattr(follow, "first_row", shift)
    reader.start()
    assert reader.rows() == [row(2), row(3), row(4)]
    assert reader.warnings() == []


def test_file_that_cannot_be_read_holds_what_comes_after_it(reader):
    append(reader.log, row(0))
    reader.rows()
    rename(reader.log)
    append(reader.log, row(1))
    broken = beside(reader.log, ".0")
    broken.symlink_to("/proc/self/mem")  # to read its beginning is an error, for root too
    with pytest.raises(OSError):
        reader.rows()
    broken.unlink()
    assert reader.rows() == [row(1)]


def in_order(*paths):
    """Give files times of change a second apart, some days ago."""
    for number, path in enumerate(paths):
        os.utime(path, (1_700_000_000 + number, 1_700_000_000 + number))


@pytest.mark.parametrize("live", [True, False], ids=["live log", "none"])
def test_unread_file_that_exists_twice_is_read_once(reader, live):
    append(beside(reader.log, ".1"), row(0), row(1))
    content = beside(reader.log, ".1").read_bytes()
    beside(reader.log, ".1.gz").write_bytes(gzip.compress(content))
    beside(reader.log, ".1.save").write_bytes(content)
    if live:
        append(reader.log, row(2))
    assert reader.rows() == [row(0), row(1)] + live * [row(2)]
    assert reader.rows() == []


def test_copies_that_were_edited_are_all_read_to_their_end(reader):
    """However they were edited: no row that stands in one of them is lost."""
    log, kitchen, sorted_copy = (beside(reader.log, ending) for ending in (".1", ".2", ".3"))
    append(log, row(0), row(1, name="attic"), row(3), row(2))
    append(kitchen, row(0), row(3), row(2))
    append(sorted_copy, row(0), row(2), row(3))
    for paths in itertools.permutations([log, kitchen, sorted_copy]):
        in_order(*paths)
        reader.position = Position()
        reader.start()
        found = reader.rows()
        assert set(found) == set(log.read_text().splitlines(keepends=True)[1:])
        assert len(found) < 10


def test_end_cut_off_and_rotated_before_the_next_look(tmp_path, capfd):
    """The open file is an editor's backup by then, or gone; the server wrote to the new one."""
    reader = Reader(tmp_path / "datalog.csv", capfd)
    append(reader.log, row(0))
    assert reader.rows() == [row(0)]
    append(reader.log, row(1))
    assert reader.rows() == [row(1)]
    reader.log.rename(beside(reader.log, ".bak"))
    append(reader.log, row(0), row(2))
    rename(reader.log)
    append(reader.log, row(3))
    in_order(beside(reader.log, ".bak"), beside(reader.log, ".1"), reader.log)
    assert reader.rows() == [row(2), row(3)]


def test_log_became_shorter_than_the_position(reader):
    """What was read before is read again only from a place that is not far back."""
    for k in range(0, 1000, 10):
        append(reader.log, *map(row, range(k, k + 10)))
        reader.rows()
    lines = reader.log.read_text().splitlines(keepends=True)
    reader.log.write_text("".join(lines[:701]) + row(2000))
    found = reader.rows()
    assert found == [row(k) for k in range(700 - len(found) + 1, 700)] + [row(2000)]
    assert 1 <= len(found) < 600


def test_line_longer_than_a_block(reader):
    nuls = "\0" * (2 * BLOCK + 99)
    append(reader.log, row(0), nuls)
    assert reader.rows() == [row(0)]
    assert reader.rows() == [], "its end is not there yet"
    append(reader.log, "\n", row(1))
    assert reader.rows() == [row(1)]
    assert f"no row ({len(nuls) + 1} bytes)" in reader.warnings()[-1]
    append(reader.log, row(2))
    rename_and_pack(reader.log)
    append(reader.log, row(3))
    assert reader.rows() == [row(2), row(3)]


@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"], ids=["crlf", "mark"])
@pytest.mark.parametrize("header", [True, False])
def test_rotated_log_that_an_editor_on_windows_has_saved(reader, mark, header):
    append(reader.log, row(0), row(1))
    assert reader.rows() == [row(0), row(1)]
    append(reader.log, row(2))
    rename(reader.log)
    path = beside(reader.log, ".1")
    content = path.read_bytes() if header else path.read_bytes().split(b"\n", 1)[1]
    path.write_bytes(mark + content.replace(b"\n", b"\r\n"))
    append(reader.log, row(3))
    assert reader.rows() == [row(2), row(3)]
    assert reader.warnings() == []


def test_finished_files_that_are_gone_are_forgotten(reader, monkeypatch):
    monkeypatch.setattr(follow, "FINISHED", 5)
    clock = [0.0]
    monkeypatch.setattr(follow.time, "monotonic", lambda: clock[0])
    follower = reader.follower
    for k in range(9):
        append(reader.log, row(k))
        assert [position.line.decode() + "\n" for position in follower.read()] == [row(k)]
        rename(reader.log)
    append(reader.log, row(9))
    follower.read()
    assert len(follower.position.finished) == 9, "a renaming may have hidden them"
    clock[0] += follow.ABSENT
    beside(reader.log, ".1").rename(beside(reader.log, ".2"))
    rename(reader.log)
    append(reader.log, row(10))
    assert [position.line.decode() + "\n" for position in follower.read()] == [row(10)]
    assert [line.decode() + "\n" for line in follower.position.finished] == [row(8), row(9)]


def test_a_few_finished_files_are_remembered_however_long_they_are_gone(reader, monkeypatch):
    monkeypatch.setattr(follow, "ABSENT", 1e-9)
    for k in range(3):
        append(reader.log, row(k))
        assert reader.rows() == [row(k)]
        reader.log.rename(reader.log.with_name("away" if k == 0 else f"{reader.log.name}.{k}"))
    append(reader.log, row(3))
    assert reader.rows() == [row(3)]
    reader.log.with_name("away").rename(beside(reader.log, ".9"))
    rename(reader.log)
    append(reader.log, row(4))
    assert reader.rows() == [row(4)]


def test_skipped_to_the_end_of_a_long_log_that_is_then_cut_back(reader):
    """Not the whole log is published then, which was passed over at the first start."""
    append(reader.log, *map(row, range(5 * LONG)))
    reader.follower.skip()
    assert reader.follower.position.line.decode() + "\n" == row(5 * LONG - 1)
    reader.position = reader.follower.position
    lines = reader.log.read_text().splitlines(keepends=True)
    reader.log.write_text("".join(lines[:-100]))
    append(reader.log, row(10 * LONG))
    found = reader.rows()
    assert found[-1] == row(10 * LONG) and len(found) < LONG
