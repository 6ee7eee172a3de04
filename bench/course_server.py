#!/usr/bin/env python3
"""The course's server, for comparison: for each datagram open the log, write, close, print.

$ python3 bench/course_server.py 10001 datalog.txt
"""

import socket
import sys

if __name__ == "__main__":
    server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    server.bind(("127.0.0.1", int(sys.argv[1])))
    while True:
        reading, _ = server.recvfrom(1024)
        with open(sys.argv[2], "a") as log:
            log.write(reading.decode() + "\n")
        print(reading.decode())
