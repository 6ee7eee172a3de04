"""A disk with a write cache that a power cut empties: a network block device on a Unix socket.

    python3 disk.py SOCKET IMAGE SEED [FUSE]

What was written since the last flush is lost when the machine that uses the disk dies: of each
block of 4 KiB that was written, chance keeps one of its versions, the one on the disk included. (A
block is never torn: with 512 bytes, ext4 now and then loses its superblock to that.) A flush, and a
write that is to be forced, are on the disk (in IMAGE) before they are answered.

It serves one machine, until that closes the socket: cleanly, and all is kept, or by its death. With
a FUSE, the power goes with the write or flush of this number, which is not answered any more: so
cuts fall between any two of them, not just into the long pauses. SOCKET.gone says that it went.
"""

from __future__ import annotations

import os
import random
import socket
import struct
import sys
from contextlib import suppress

BLOCK = 4096
SHARES = 0.0, 0.1, 0.5, 0.9, 1.0  # of the blocks in the cache that a cut keeps; chance picks one

# The protocol: https://github.com/NetworkBlockDevice/nbd/blob/master/doc/proto.md
MAGIC, OPTION_MAGIC, REPLY_MAGIC = 0x4E42444D41474943, 0x49484156454F5054, 0x3E889045565A9
REQUEST_MAGIC, ANSWER_MAGIC = 0x25609513, 0x67446698
HANDSHAKE = 1 | 2  # fixed newstyle, no zeroes
FLAGS = 1 | 4 | 8  # it has flags, can FLUSH, and can force a write (FUA)
EXPORT_NAME, INFO, GO = 1, 6, 7
ACK, REPLY_INFO, UNSUPPORTED = 1, 3, 0x80000001
READ, WRITE, DISCONNECT, FLUSH = 0, 1, 2, 3
INVALID = 22  # EINVAL


class PowerCut(Exception):
    """The machine is dead, or the fuse has blown."""


class Disk:
    """The image, and before it the cache: by block, what was written and not flushed."""

    def __init__(self, path: str, rng: random.Random) -> None:
        self.file = os.open(path, os.O_RDWR)
        self.size = os.fstat(self.file).st_size
        self.rng = rng
        self.versions: dict[int, list[bytes]] = {}  # the latest last
        self.flushes = self.writes = 0

    def block(self, number: int) -> bytes:
        if number in self.versions:
            return self.versions[number][-1]
        return os.pread(self.file, BLOCK, number * BLOCK)

    def read(self, offset: int, length: int) -> bytes:
        first, last = offset // BLOCK, (offset + length - 1) // BLOCK
        blocks = b"".join(map(self.block, range(first, last + 1)))
        return blocks[offset - first * BLOCK :][:length]

    def write(self, offset: int, content: bytes, force: bool) -> None:
        self.writes += 1
        while content:
            number, start = divmod(offset, BLOCK)
            piece = content[: BLOCK - start]
            block = self.block(number)
            block = block[:start] + piece + block[start + len(piece) :]
            if force:
                os.pwrite(self.file, block, number * BLOCK)
                self.versions.pop(number, None)
            else:
                self.versions.setdefault(number, []).append(block)
            offset += len(piece)
            content = content[len(piece) :]

    def flush(self) -> None:
        self.flushes += 1
        for number, versions in self.versions.items():
            os.pwrite(self.file, versions[-1], number * BLOCK)
        self.versions.clear()

    def cut(self) -> tuple[int, int]:
        """Lose the power; return how many blocks were in the cache and how many were lost."""
        lost = 0
        share = self.rng.choice(SHARES)
        for number, versions in self.versions.items():
            if share == 1.0:
                os.pwrite(self.file, versions[-1], number * BLOCK)
            elif self.rng.random() < share:
                os.pwrite(self.file, self.rng.choice(versions), number * BLOCK)
            else:
                lost += 1
        return len(self.versions), lost


def receive(sock: socket.socket, length: int) -> bytes:
    received = bytearray()
    while len(received) < length:
        piece = sock.recv(length - len(received))
        if not piece:
            raise PowerCut
        received += piece
    return bytes(received)


def greet(sock: socket.socket, size: int) -> None:
    """Agree with the machine; return when it wants to use the disk."""
    sock.sendall(struct.pack(">QQH", MAGIC, OPTION_MAGIC, HANDSHAKE))
    (flags,) = struct.unpack(">I", receive(sock, 4))
    while True:
        _, option, length = struct.unpack(">QII", receive(sock, 16))
        receive(sock, length)  # the name of the disk: there is only one
        if option == EXPORT_NAME:
            zeroes = b"" if flags & 2 else bytes(124)
            sock.sendall(struct.pack(">QH", size, FLAGS) + zeroes)
            return
        if option in (INFO, GO):
            info = struct.pack(">HQH", 0, size, FLAGS)
            head = struct.pack(">QIII", REPLY_MAGIC, option, REPLY_INFO, len(info))
            sock.sendall(head + info + struct.pack(">QIII", REPLY_MAGIC, option, ACK, 0))
            if option == GO:
                return
        else:
            sock.sendall(struct.pack(">QIII", REPLY_MAGIC, option, UNSUPPORTED, 0))


def serve(sock: socket.socket, disk: Disk, fuse: int) -> None:
    """Do what the machine asks for until it takes its leave; raise PowerCut."""
    while True:
        request = struct.unpack(">IHHQQI", receive(sock, 28))
        magic, flags, kind, cookie, offset, length = request
        if magic != REQUEST_MAGIC:
            raise PowerCut
        answer = b""
        content = receive(sock, length) if kind == WRITE else b""
        if kind in (WRITE, FLUSH):
            fuse -= 1
            if fuse == 0:
                raise PowerCut
        if kind == READ:
            answer = disk.read(offset, length)
        elif kind == WRITE:
            disk.write(offset, content, bool(flags & 1))
        elif kind == FLUSH:
            disk.flush()
        elif kind == DISCONNECT:
            disk.flush()
            return
        error = 0 if kind <= FLUSH else INVALID
        sock.sendall(struct.pack(">IIQ", ANSWER_MAGIC, error, cookie) + answer)


def main(path: str, image: str, seed: str, fuse: str = "0") -> None:
    disk = Disk(image, random.Random(int(seed)))
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen()
        sock, _ = listener.accept()
    os.unlink(path)
    try:
        greet(sock, disk.size)
        serve(sock, disk, int(fuse))
        print(f"{disk.writes} writes, {disk.flushes} flushes, ended cleanly", flush=True)
    except (PowerCut, ConnectionError):
        cached, lost = disk.cut()
        work = f"{disk.writes} writes, {disk.flushes} flushes"
        print(f"{work}, cut: {cached} blocks in the cache, {lost} lost", flush=True)
        open(path + ".gone", "w").close()
        with suppress(ConnectionError):
            while sock.recv(65536):  # until the machine is dead as well
                pass


if __name__ == "__main__":
    main(*sys.argv[1:])
