#!/usr/bin/python3
"""A time server, for the Pi of years.py: it answers with the time of this machine (RFC 4330)."""

import socket
import struct
import time

SINCE_1900 = 2_208_988_800  # seconds, up to 1970


def ntp(at):
    """Return a time as NTP has it: seconds since 1900, and their fraction, 32 bits each."""
    return struct.pack(">II", int(at) + SINCE_1900, int(at % 1 * (1 << 32)))


with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
    sock.bind(("", 123))
    while True:
        question, peer = sock.recvfrom(512)
        now = time.time()
        head = struct.pack(">BBBbII4s", 0x24, 2, question[2], -20, 0, 0, b"\x7f\x7f\x01\x01")
        sock.sendto(head + ntp(now) + question[40:48] + ntp(now) + ntp(time.time()), peer)
