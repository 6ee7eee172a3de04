"""A UDP relay that loses, doubles, reorders and delays datagrams, as its seed decides."""

import heapq
import itertools
import random
import select
import socket
import threading
import time

SHORT, LONG = 0.003, 0.2  # seconds that a datagram takes at most: all but the late ones, and these


class Relay:
    """Passes datagrams on, both ways, between any number of clients and a server.

    Each client has a socket of its own towards the server. loss, doubled and late are shares of
    the datagrams. `server` is the server's present port: a restarted server may take another.
    `watch` is called with each answer before it is passed on, `passed` with each datagram that
    reaches the server.
    """

    def __init__(
        self,
        server=0,
        seed=0,
        loss=0.0,
        doubled=0.0,
        late=0.0,
        watch=lambda answer: None,
        passed=lambda datagram: None,
    ):
        self.server = server
        self.dice = random.Random(seed)
        self.loss, self.doubled, self.late = loss, doubled, late
        self.watch = watch
        self.passed = passed
        self.front = self.bound()
        self.port = self.front.getsockname()[1]
        self.back = {}  # a client's address -> the socket that stands for it at the server
        self.clients = {}  # that socket -> the client's address
        # A heap of: when it arrives, a number that keeps the rest from being compared, what, where.
        self.under_way = []
        self.numbers = itertools.count()
        self.going = True
        self.thread = threading.Thread(target=self.run)

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.going = False
        self.thread.join()
        for sock in [self.front, *self.clients]:
            sock.close()

    @staticmethod
    def bound():
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        sock.bind(("127.0.0.1", 0))
        return sock

    def run(self):
        while self.going:
            wait = self.under_way[0][0] - time.monotonic() if self.under_way else 0.05
            for sock in select.select([self.front, *self.clients], [], [], min(max(wait, 0), 0.05))[
                0
            ]:
                datagram, peer = sock.recvfrom(512)
                if sock is self.front:
                    if peer not in self.back:
                        self.back[peer] = self.bound()
                        self.clients[self.back[peer]] = peer
                    self.accept(datagram, self.back[peer], None)
                else:
                    self.watch(datagram)
                    self.accept(datagram, self.front, self.clients[sock])
            while self.under_way and self.under_way[0][0] <= time.monotonic():
                _, _, datagram, sock, peer = self.under_way[0]
                if not peer and self.server:
                    self.passed(datagram)
                heapq.heappop(self.under_way)
                if peer:
                    sock.sendto(datagram, peer)
                elif self.server:
                    sock.sendto(datagram, ("127.0.0.1", self.server))

    def accept(self, datagram, sock, peer):
        """Decide by chance how often and when a datagram arrives; without a peer, at the server."""
        for _ in range(2 if self.dice.random() < self.doubled else 1):
            if self.dice.random() >= self.loss:
                delay = self.dice.uniform(0, LONG if self.dice.random() < self.late else SHORT)
                heapq.heappush(
                    self.under_way,
                    (time.monotonic() + delay, next(self.numbers), datagram, sock, peer),
                )
