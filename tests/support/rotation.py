"""What logrotate does to a log, and how the server writes one."""

import bz2
import gzip
import lzma
import os
import shutil

from support.made import HEADER

COMPRESS = {
    ".gz": gzip.compress,
    ".xz": lzma.compress,
    ".bz2": lambda content: bz2.compress(content, 1),  # in blocks of 100 kB
}


def append(path, *rows):
    """Append rows as the server does: an empty log gets its header."""
    with path.open("a", newline="") as log:
        log.write("".join([HEADER][: log.tell() == 0] + list(rows)))


def beside(path, ending):
    return path.with_name(path.name + ending)


def pack(path, ending=".gz"):
    """Pack a file as gzip, xz and bzip2 do: its source is removed last."""
    beside(path, ending).write_bytes(COMPRESS[ending](path.read_bytes()))
    path.unlink()


def rename(log):
    log.rename(beside(log, ".1"))


def rename_and_create(log):
    rename(log)
    log.touch()


def rename_and_pack(log):
    rename(log)
    pack(beside(log, ".1"))


def rename_and_pack_xz(log):
    rename(log)
    pack(beside(log, ".1"), ".xz")


def rename_and_pack_bz2(log):
    rename(log)
    pack(beside(log, ".1"), ".bz2")


def date(log):
    log.rename(beside(log, "-20261121"))


def copy_and_truncate(log):
    shutil.copy(log, beside(log, ".1"))
    os.truncate(log, 0)


def copy_truncate_and_pack(log):
    copy_and_truncate(log)
    pack(beside(log, ".1"))


ROTATIONS = [
    rename,
    rename_and_create,
    rename_and_pack,
    rename_and_pack_xz,
    rename_and_pack_bz2,
    date,
    copy_and_truncate,
    copy_truncate_and_pack,
]
