"""A log that is written, rotated, packed, copied and edited by chance, and what is true of it then.

What there is to be read is found by looking into all files of the folder: nothing here knows how a
Follower finds its place.
"""

import bz2
import gzip
import lzma
import os
import re
import shutil

from support.made import HEADER, row

OPEN = {".gz": gzip.open, ".xz": lzma.open, ".bz2": bz2.open}
MARK = b"\xef\xbb\xbf"
NUMBER = re.compile(rb",(2\d{15})\r?$")  # of a whole row, as `row` numbers them


def number_of(line):
    """Return the number of a row, None for any other line."""
    found = NUMBER.search(line)
    return int(found[1]) - 2 * 10**15 if found and line.count(b",") == 5 else None


class Folder:
    """A log, its server, and a person; each change has a later time than the one before."""

    def __init__(self, path, chance):
        self.path = path
        self.chance = chance
        self.clock = 1_700_000_000  # seconds, of the files
        self.written = 0  # rows
        self.removed = set()  # rows that a person, or copytruncate, has taken away
        self.may_double = set()
        self.is_in_order = True  # the files, by the time of their last change
        self.file = path.open("ab", buffering=0)
        self.packing = None
        self.backup = None
        self.was_put_back = False  # the log, from an older one

    # What is there

    def files(self):
        """Return all files of the log; what ends in ~ is an editor's."""
        found = self.path.parent.glob("datalog.csv*")
        return sorted(each for each in found if not each.name.endswith("~"))

    def rotated(self, *, plain=False):
        no_logs = self.path, self.packing, self.beside(".swp")
        others = [each for each in self.files() if each not in no_logs]
        return [each for each in others if not plain or each.suffix not in OPEN]

    def content(self, path):
        with OPEN.get(path.suffix, open)(path, "rb") as file:
            return file.read()

    def lines(self, path):
        return self.content(path).splitlines(keepends=True)

    def numbers(self, path):
        found = (number_of(line.rstrip(b"\n")) for line in self.lines(path) if line[-1:] == b"\n")
        return {each for each in found if each is not None}

    def to_be_read(self):
        """Return the rows that stand in any file."""
        there = set()
        for path in self.files():
            if path != self.packing:
                there |= self.numbers(path)
        return there - self.removed

    def choose(self, paths):
        return self.chance.choice(paths) if paths else None

    # What the server does

    def append(self, line):
        self.file.write(line)
        self.clock += 1
        os.utime(self.file.fileno(), (self.clock, self.clock))

    def row(self):
        self.written += 1
        return row(self.written - 1).encode()

    def look(self):
        """Open the log again if it was renamed, replaced or removed."""
        try:
            moved = not os.path.samestat(os.stat(self.path), os.fstat(self.file.fileno()))
        except FileNotFoundError:
            moved = True
        if moved:
            self.file.close()
            self.file = self.path.open("ab", buffering=0)

    def write(self, rows=None):
        """Append rows to the log."""
        self.look()
        header = b"" if os.fstat(self.file.fileno()).st_size else HEADER.encode()
        rows = self.chance.choice([1, 1, 2, 9]) if rows is None else rows
        self.append(header + b"".join(self.row() for _ in range(rows)))

    def crash(self):
        """Leave a line of NULs, short or longer than a block."""
        self.write(0)
        self.append(bytes(self.chance.choice([5, 400, 2000])) + b"\n")
        self.write()

    # What rotation does

    def free_name(self):
        """Make room for a file .1, and return its path."""
        pattern = re.compile(r"datalog\.csv\.(\d+)(\..*)?")
        shifted = [each for each in self.rotated() if pattern.fullmatch(each.name)]
        for path in sorted(shifted, key=lambda each: -int(pattern.fullmatch(each.name)[1])):
            number, ending = pattern.fullmatch(path.name).groups()
            path.rename(self.beside(f".{int(number) + 1}{ending or ''}"))
        return self.beside(".1")

    def beside(self, ending):
        return self.path.with_name(self.path.name + ending)

    def rotate(self):
        if self.path.exists():
            new = self.chance.choice([self.free_name, lambda: self.beside(f"-{self.clock}")])()
            self.look()
            self.path.rename(new)
            if self.chance.random() < 0.3:
                self.path.touch()
                self.changed(self.path)
            if self.chance.random() < 0.3:
                self.append(self.row())  # the server had looked just before

    def copy_and_truncate(self):
        if self.path.exists():
            shutil.copy2(self.path, self.free_name())
            os.truncate(self.path, 0)

    def pack(self):
        path = self.choose(self.rotated(plain=True))
        if path:
            self.write_packed(path, self.chance.choice([*OPEN]))
            path.unlink()

    def write_packed(self, path, ending):
        packed = path.with_name(path.name + ending)
        with OPEN[ending](packed, "wb") as file:
            file.write(self.content(path))
        shutil.copystat(path, packed)
        return packed

    def begin_to_pack(self):
        """Leave a packed file that ends early beside its source, until `end_to_pack`."""
        path = self.choose(self.rotated(plain=True))
        if path and not self.packing and not path.with_name(path.name + ".gz").exists():
            self.packing = self.write_packed(path, ".gz")
            content = self.packing.read_bytes()
            self.packing.write_bytes(content[: self.chance.randrange(len(content))])

    def end_to_pack(self):
        if self.packing:
            source = self.packing.with_suffix("")
            if source.exists():
                self.write_packed(source, ".gz")
                source.unlink()
            else:
                self.packing.unlink()
            self.packing = None

    def remove_oldest(self):
        paths = self.rotated()
        if paths:
            oldest = min(paths, key=os.path.getmtime)
            rows = self.numbers(oldest)
            oldest.unlink()
            if any(self.numbers(path) & rows for path in self.rotated()):
                self.doubles(rows)  # a copy is left, which may be an earlier one

    # What a person does, and nothing is read twice for it

    def unpack(self):
        path = self.choose([each for each in self.rotated() if each.suffix in OPEN])
        if path and not path.with_suffix("").exists():
            path.with_suffix("").write_bytes(self.content(path))
            shutil.copystat(path, path.with_suffix(""))
            if self.chance.random() < 0.5:  # without -k
                path.unlink()

    def copy(self):
        path = self.choose([self.path, *self.rotated()])
        if path.exists():
            ending = path.suffix if path.suffix in OPEN else ""
            self.clock += 1
            copy = self.beside(f".copy{self.clock}{ending}")
            shutil.copy2(path, copy)
            if self.chance.random() < 0.5:  # without -p
                self.changed(copy)

    def to_windows(self):
        path = self.any_plain()
        if path and path != self.path and b"\r" not in self.content(path):
            mark = self.chance.choice([b"", MARK])
            self.replace(path, mark + self.content(path).replace(b"\n", b"\r\n"))

    def save_unchanged(self):
        """Save with an editor, or `sed -i`, and its backup."""
        path = self.any_plain()
        if path:
            self.replace(path, self.content(path))

    def replace(self, path, content):
        """Save a file as editors do: in place, as a new one, or with a backup of the old one."""
        way = self.chance.randrange(4)
        if way == 0:
            path.write_bytes(content)
        else:
            if way == 2:
                path.rename(path.with_name(f"{path.name}.~{self.clock}~"))
            if way == 3:
                shutil.copy2(path, self.beside(f".orig{self.clock}"))
            new = path.with_name("new")
            new.write_bytes(content)
            new.replace(path)
        self.changed(path)

    def changed(self, path):
        self.is_in_order &= path == self.path
        self.clock += 1
        os.utime(path, (self.clock, self.clock))

    def junk(self):
        self.beside(".swp").write_bytes(bytes(range(256)) * 9)

    # What a person does, and rows may be read twice for it

    def edit(self, path, lines):
        """Save these lines; what is no longer there is not to be read."""
        before = self.numbers(path)
        self.replace(path, b"".join(lines))
        self.doubles(before | self.numbers(path), before - self.numbers(path))

    def doubles(self, rows, removed=()):
        self.may_double |= set(rows)
        for path in self.files():
            if path != self.packing and self.numbers(path) & set(rows):  # a copy
                self.may_double |= self.numbers(path)
        self.removed |= set(removed)
        self.is_in_order = False

    def any_plain(self):
        return self.choose(
            [each for each in [self.path, *self.rotated(plain=True)] if each.exists()]
        )

    def cut_end(self):
        path = self.any_plain()
        if path:
            lines = self.lines(path)
            self.edit(path, lines[: self.chance.randrange(len(lines) + 1)])

    def delete_lines(self):
        path = self.any_plain()
        if path:
            self.edit(path, [each for each in self.lines(path) if self.chance.random() < 0.8])

    def change_lines(self):
        path = self.any_plain()
        if path:
            changed = rb"192.168.%d.9" % self.chance.randrange(256)
            only = self.chance.choice([1.0, 0.3])
            self.edit(
                path,
                [
                    re.sub(rb"192\.168\.\d+\.\d+", changed, each)
                    if self.chance.random() < only
                    else each
                    for each in self.lines(path)
                ],
            )

    def back_up(self):
        """Copy the log to another folder."""
        if self.path.exists():
            self.backup = self.content(self.path)

    def restore(self):
        if self.backup is not None and self.path.exists():
            self.edit(self.path, [self.backup])
            self.supersede()

    def undo_rotation(self):
        path = self.choose(self.rotated(plain=True))
        if path:
            before = self.numbers(self.path) if self.path.exists() else set()
            path.replace(self.path)
            now = self.numbers(self.path)
            self.doubles(before | now, before - now)
            self.supersede()

    def supersede(self):
        """Take it that an older log that is put back is meant in the place of its copies."""
        self.was_put_back = True
        rows = self.numbers(self.path)
        for path in self.rotated():
            others = self.numbers(path)
            if min(rows, default=-1) in others:
                self.removed |= others - rows

    def copy_write_and_truncate(self):
        """Lose what the server writes between copying and truncating."""
        if self.path.exists():
            copy = self.free_name()
            shutil.copy2(self.path, copy)
            before = self.written
            self.write()
            os.truncate(self.path, 0)
            self.doubles(self.numbers(copy), range(before, self.written))


WRITING = [Folder.write] * 6 + [Folder.crash]
ROTATING = [Folder.rotate] * 4 + [
    Folder.copy_and_truncate,
    Folder.pack,
    Folder.begin_to_pack,
    Folder.end_to_pack,
    Folder.remove_oldest,
]
KEEPING = [Folder.unpack, Folder.copy, Folder.to_windows, Folder.save_unchanged, Folder.junk]
CHANGING = [
    Folder.cut_end,
    Folder.delete_lines,
    Folder.change_lines,
    Folder.back_up,
    Folder.restore,
    Folder.undo_rotation,
    Folder.copy_write_and_truncate,
]
