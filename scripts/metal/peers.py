"""Clients and servers: sockets of this process in namespaces of their own."""

import contextlib
import ctypes
import hashlib
import http.server
import os
import socket
import subprocess
import threading
import time

CLONE_NEWNET = 0x40000000
LIBC = ctypes.CDLL(None, use_errno=True)


def ip(*arguments):
    done = subprocess.run(["ip", *arguments], check=False, capture_output=True, text=True)
    if done.returncode:
        raise OSError(f"ip {' '.join(arguments)}: {done.stderr.strip()}")


class Namespace:
    """A network namespace with one interface. What a socket is opened in, it
    stays in: so a thread enters for that only."""

    def __init__(self, name, addresses):
        self.name = name
        self.addresses = addresses
        ip("netns", "add", name)
        self.interface = None
        ip("-n", name, "link", "set", "lo", "up")

    def take(self, interface):
        self.interface = interface
        ip("link", "set", interface, "netns", self.name)
        self.mtu(1500)
        ip("-n", self.name, "link", "set", interface, "up")
        for address in self.addresses:
            ip("-n", self.name, "address", "add", address, "dev", interface)

    def mtu(self, mtu):
        ip("-n", self.name, "link", "set", self.interface, "mtu", str(mtu))
        # Path MTUs that were learned with the old one.
        ip("-n", self.name, "route", "flush", "cache")

    def set_link(self, up):
        ip("-n", self.name, "link", "set", self.interface, "up" if up else "down")

    def run(self, *arguments):
        """A program in it: exit code and output."""
        done = subprocess.run(["ip", "netns", "exec", self.name, *arguments], check=False,
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        return done.returncode, done.stdout

    @contextlib.contextmanager
    def inside(self):
        with open("/proc/thread-self/ns/net", "rb") as outside, \
                open(f"/run/netns/{self.name}", "rb") as inside:
            enter(inside)
            try:
                yield
            finally:
                enter(outside)

    def remove(self):
        """An interface that is still there comes back at once: a connection that is
        not over yet keeps the namespace for a while."""
        if self.interface is not None:
            with contextlib.suppress(OSError):
                ip("-n", self.name, "link", "set", self.interface, "netns", str(os.getpid()))
        ip("netns", "delete", self.name)


def enter(namespace):
    if LIBC.setns(namespace.fileno(), CLONE_NEWNET):
        raise OSError(ctypes.get_errno(), "setns")


def pattern(length):
    """Bytes that are the same nowhere twice within a packet's reach."""
    block = b"".join(hashlib.sha256(str(number).encode()).digest() for number in range(2048))
    return (block * (length // len(block) + 1))[:length]


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def reply(self, body):
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("X-Server", self.server.server_address[0])
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self):
        """`/N`: so many bytes."""
        self.reply(pattern(int(self.path[1:])))

    def do_POST(self):
        """The digest of what was sent."""
        left = int(self.headers["Content-Length"])
        digest = hashlib.sha256()
        while left:
            data = self.rfile.read(min(left, 65536))
            digest.update(data)
            left -= len(data)
        self.reply(digest.hexdigest().encode())

    def log_message(self, *_):
        pass


class WebServer(http.server.ThreadingHTTPServer):
    request_queue_size = 256
    daemon_threads = True

    def handle_error(self, request, client_address):
        """A client that went away is the client's matter."""


def serve(namespace, address):
    """HTTP on port 80, echo over UDP on 53, and on 81 TCP that answers a byte
    with one and closes."""
    with namespace.inside():
        web = WebServer((address, 80), Handler)
        echo = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        echo.bind((address, 53))
        closing = socket.create_server((address, 81), backlog=256)
    threading.Thread(target=web.serve_forever, daemon=True).start()
    threading.Thread(target=echo_forever, args=[echo], daemon=True).start()
    threading.Thread(target=close_forever, args=[closing], daemon=True).start()


def echo_forever(sock):
    while True:
        data, sender = sock.recvfrom(65536)
        with contextlib.suppress(OSError):
            sock.sendto(data, sender)


def close_forever(listener):
    def one(stream):
        with stream, contextlib.suppress(OSError):
            stream.settimeout(30)
            stream.sendall(stream.recv(1))
            stream.shutdown(socket.SHUT_WR)
            stream.recv(1)

    while True:
        stream, _ = listener.accept()
        threading.Thread(target=one, args=[stream], daemon=True).start()


class Web:
    """One connection to a web server."""

    def __init__(self, namespace, vip, timeout=10, source=None):
        with namespace.inside():
            self.stream = socket.socket()
        self.stream.settimeout(timeout)
        self.stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if source is not None:
            self.stream.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            self.stream.bind(source)
        self.stream.connect(vip)
        self.reader = self.stream.makefile("rb")
        self.server = None

    def answer(self):
        status = self.reader.readline()
        if b" 200 " not in status:
            raise OSError(f"answered {status!r}")
        length = 0
        while (line := self.reader.readline().strip()) != b"":
            key, value = line.split(b": ", 1)
            if key == b"Content-Length":
                length = int(value)
            elif key == b"X-Server":
                self.server = value.decode()
        return self.reader.read(length)

    def get(self, length):
        self.stream.sendall(f"GET /{length} HTTP/1.1\r\nHost: vip\r\n\r\n".encode())
        body = self.answer()
        if body != pattern(length):
            raise OSError(f"{len(body)} bytes, not the {length} that were sent")

    def post(self, length):
        body = pattern(length)
        self.stream.sendall(f"POST / HTTP/1.1\r\nHost: vip\r\nContent-Length: {length}\r\n\r\n".encode() + body)
        if self.answer().decode() != hashlib.sha256(body).hexdigest():
            raise OSError("the server has other bytes than were sent")

    def close(self):
        self.reader.close()
        self.stream.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


def udp_exchange(namespace, vip, data, timeout=2):
    """One datagram from a port of its own, and its echo; how long it took."""
    with namespace.inside():
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    with sock:
        sock.settimeout(timeout)
        start = time.monotonic()
        sock.sendto(data, vip)
        if sock.recv(65536) != data:
            raise OSError("another datagram came back")
        return time.monotonic() - start


def first_answer(namespace, vip, within):
    """Tries new connections until a request is answered: seconds, or None."""
    start = time.monotonic()
    while time.monotonic() - start < within:
        with contextlib.suppress(OSError), Web(namespace, vip, timeout=1) as web:
            web.get(100)
            return time.monotonic() - start
        time.sleep(0.05)
    return None


class Load:
    """Requests on connections of their own and on kept ones, until `stop`: how
    many, the longest, and what failed."""

    def __init__(self, namespace, vip, threads=2):
        self.done = threading.Event()
        self.requests = 0
        self.longest = 0.0
        self.errors = []
        self.lock = threading.Lock()
        self.threads = [threading.Thread(target=self.go, args=[namespace, vip], daemon=True) for _ in range(threads)]
        for thread in self.threads:
            thread.start()

    def go(self, namespace, vip):
        while not self.done.is_set():
            try:
                start = time.monotonic()
                with Web(namespace, vip) as web:
                    for _ in range(5):
                        web.get(2000)
                        with self.lock:
                            self.requests += 1
                            self.longest = max(self.longest, time.monotonic() - start)
                        start = time.monotonic()
            except OSError as error:
                self.errors.append(str(error))
                time.sleep(0.2)

    def stop(self):
        self.done.set()
        for thread in self.threads:
            thread.join()


