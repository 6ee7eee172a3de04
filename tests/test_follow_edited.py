"""A log is followed while it is rotated, packed, copied and edited by chance: nothing is lost."""

import random
from collections import Counter

import pytest

from dht22.log import follow, position, rotated
from dht22.log.follow import Follower
from dht22.log.position import Position
from support.edited import CHANGING, KEEPING, ROTATING, WRITING, Folder, number_of

READS = 500  # of one look, at most: more of them never end


class Reader:
    """Follows a log as publish.py does, and is killed; notes each row as often as it is read."""

    def __init__(self, folder):
        self.folder = folder
        self.read = Counter()
        self.order = []
        self.position = Position()
        self.follower = Follower(folder.path, self.position)

    def step(self):
        """Read a block at most; tell whether there was one."""
        found = self.follower.read()
        for each in found:
            self.position = each
            self.order.append(number_of(each.line))
            self.read[number_of(each.line)] += 1
        return bool(found)

    def look(self):
        """Read all that is there."""
        for _ in range(READS):
            if not self.step():
                return
        pytest.fail("it reads for ever")

    def restart(self):
        self.follower = Follower(self.folder.path, self.position)

    def rewind(self):
        self.follower.rewind(self.position)


def play(path, seed):
    """Do things by chance, and check that all rows are read, and as often as they may be."""
    chance = random.Random(seed)
    folder = Folder(path, chance)
    reader = Reader(folder)
    kinds = [WRITING, WRITING, ROTATING, KEEPING] + [CHANGING] * (seed % 2)
    readers = [Reader.step, Reader.look, Reader.restart, Reader.rewind]
    done = []
    for _ in range(chance.randrange(4, 40)):
        action = chance.choice(chance.choice(kinds))
        if folder.was_put_back and action in (*ROTATING, Folder.copy_write_and_truncate):
            folder.end_to_pack()
            reader.look()  # what was finished is read again while it is the live log
            folder.was_put_back = False
        done.append(action.__name__)
        action(folder)
        if chance.random() < 0.5:
            action = chance.choice(readers)
            done.append(action.__name__)
            action(reader)
    folder.end_to_pack()
    for _ in range(2):  # what was put beside a log waits until that is left
        folder.write()
        reader.look()
        folder.rotate()
    folder.write()
    reader.look()
    lost = folder.to_be_read() - reader.read.keys()
    doubled = {each for each, times in reader.read.items() if times > 1} - folder.may_double
    assert not lost and not doubled, f"seed {seed}: lost {lost}, doubled {doubled}, {done}"
    assert reader.read.keys() <= set(range(folder.written)), "none is invented"
    if folder.is_in_order:
        assert reader.order == sorted(reader.order), f"seed {seed}: not in order, {done}"
    folder.file.close()


@pytest.mark.parametrize("runs", [60, pytest.param(10_000, marks=pytest.mark.long)])
def test_nothing_is_lost_whatever_is_done_to_the_files(tmp_path, monkeypatch, runs):
    for module in follow, position, rotated:
        monkeypatch.setattr(module, "BLOCK", 350)  # some three rows
    for seed in range(runs):
        (tmp_path / str(seed)).mkdir()
        play(tmp_path / str(seed) / "datalog.csv", seed)
