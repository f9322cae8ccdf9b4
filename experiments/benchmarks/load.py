"""Sends one HTTP request over and over, over connections that stay open, and times the answers.

It does no more than it must, because it shares the machine with what it measures: the bytes of the request
are made once, and of an answer only its status and its length are looked at.
"""

from __future__ import annotations

import re
import selectors
import socket
import time
from dataclasses import dataclass
from urllib.parse import urlsplit

from contract.errors import RoundError

__all__ = ["Connection", "at_rate", "request_of", "without_pause"]

_LENGTH = re.compile(rb"content-length: *(\d+)", re.IGNORECASE)


def request_of(url: str, body: bytes) -> bytes:
    """The bytes of a POST with a body in JSON."""
    parts = urlsplit(url)
    head = f"POST {parts.path} HTTP/1.1\r\nHost: {parts.netloc}\r\nContent-Type: application/json\r\n"
    return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body


@dataclass
class Connection:
    """One connection, on which one request at a time is asked."""

    open: socket.socket
    received: bytes = b""
    sent: float = 0.0

    @classmethod
    def to(cls, url: str) -> Connection:
        """A new one."""
        parts = urlsplit(url)
        found = socket.create_connection((parts.hostname, parts.port), timeout=120)
        found.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return cls(open=found)

    def send(self, request: bytes) -> None:
        """Ask."""
        self.sent, self.received = time.perf_counter(), b""
        self.open.sendall(request)

    def read(self) -> bool:
        """Read what came; whether the answer is whole.

        Raises:
            RoundError: the answer is no 200.
        """
        part = self.open.recv(2**20)
        self.received += part
        head, found, body = self.received.partition(b"\r\n\r\n")
        if not part or (found and not head.startswith(b"HTTP/1.1 200")):
            raise RoundError(f"the server answered: {self.received[:300]!r}")
        length = _LENGTH.search(head) if found else None
        return length is not None and len(body) >= int(length.group(1))

    def ask(self, request: bytes) -> float:
        """Ask and wait; gives the seconds. Errors as with `read`."""
        self.send(request)
        while not self.read():
            pass
        return time.perf_counter() - self.sent


def without_pause(url: str, body: bytes, *, connections: int, seconds: float) -> float:
    """Answers a second, where each connection asks again as soon as it was answered."""
    request, looking = request_of(url, body), selectors.DefaultSelector()
    opened = [Connection.to(url) for _ in range(connections)]
    count, end = 0, time.perf_counter() + seconds
    try:
        for one in opened:
            looking.register(one.open, selectors.EVENT_READ, one)
            one.send(request)
        began = time.perf_counter()
        while time.perf_counter() < end:
            for key, _ in looking.select(timeout=120):
                if key.data.read():
                    count += 1
                    key.data.send(request)
        return count / (time.perf_counter() - began)
    finally:
        for one in opened:
            one.open.close()


def at_rate(url: str, body: bytes, *, rate: float, seconds: float, connections: int = 16) -> list[float]:
    """Seconds of each answer where so many a second are asked, whether those before were answered or not.

    An answer's time begins when its question was due, and not when it could be sent.
    """
    request, looking = request_of(url, body), selectors.DefaultSelector()
    free = [Connection.to(url) for _ in range(connections)]
    for one in free:
        looking.register(one.open, selectors.EVENT_READ, one)
    everybody, times, due = list(free), list[float](), dict[int, float]()
    began, asked, wanted = time.perf_counter(), 0, int(rate * seconds)
    try:
        while len(times) < wanted:
            now = time.perf_counter()
            while asked < wanted and free and began + asked / rate <= now:
                one = free.pop(0)  # in turn: a server closes one that rests for long
                due[id(one)] = began + asked / rate
                one.send(request)
                asked += 1
            pause = max(0.0, began + asked / rate - now) if asked < wanted and free else 120.0
            for key, _ in looking.select(timeout=pause):
                if key.data.read():
                    times.append(time.perf_counter() - due[id(key.data)])
                    free.append(key.data)
        return times
    finally:
        for one in everybody:
            one.open.close()
