"""Speak to anything outside: Unix sockets of the host by name and by path, and every kind of packet."""

# ruff: noqa: ARG005 - every attempt is given the target, whether it looks at it or not

import os
import socket
import struct

from common import ARM, Absent, attempt, call, main, several

HELLO = b"GET /_ping HTTP/1.0\r\n\r\n"
KINDS = (("stream", socket.SOCK_STREAM), ("dgram", socket.SOCK_DGRAM), ("seqpacket", socket.SOCK_SEQPACKET))


def speak(s):
    s.settimeout(4)
    s.send(HELLO)
    return "spoken to"


several("abstract", KINDS, lambda t, kind: _unix(kind, "\0" + t["abstract"] + f"-{int(kind)}"))
several("file", KINDS, lambda t, kind: _unix(kind, t["directory"] + f"/canary-{int(kind)}"))
several(
    "file_by_proc_root", KINDS, lambda t, kind: _unix(kind, "/proc/1/root" + t["directory"] + f"/canary-{int(kind)}")
)
several("file_by_symlink", KINDS, lambda t, kind: _linked(kind, t["directory"] + f"/canary-{int(kind)}"))
several("planted_symlink", [("stream", socket.SOCK_STREAM)], lambda t, kind: _unix(kind, t["planted"]))
several("docker", [("run", "/run/docker.sock"), ("var_run", "/var/run/docker.sock")],
        lambda t, path: _unix(socket.SOCK_STREAM, path))  # fmt: skip
several("own", [("api", "")], lambda t, prefix: _unix(socket.SOCK_STREAM, prefix + t["api"]))
several("own_by_root", [("api", "/proc/self/root"), ("api_1", "/proc/1/root")],
        lambda t, prefix: _unix(socket.SOCK_STREAM, prefix + t["api"]))  # fmt: skip
several("system_bus", [("dbus", "/run/dbus/system_bus_socket"), ("systemd", "/run/systemd/private"),
                       ("journal", "/run/systemd/journal/stdout")], lambda t, path: _there(path))  # fmt: skip


def _unix(kind, name):
    with socket.socket(socket.AF_UNIX, kind) as s:
        s.settimeout(4)
        s.connect(name)
        return speak(s)


def _there(path):
    if not os.path.exists(path):
        raise Absent(path) if os.path.isdir("/run/systemd/system") else FileNotFoundError(2, path)
    return _unix(socket.SOCK_STREAM, path)


def _linked(kind, path):
    link = f"socket-link-{int(kind)}"
    if os.path.lexists(link):
        os.unlink(link)
    os.symlink(path, link)
    return _unix(kind, link)


@attempt
def autobind_and_send(t):
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as s:
        s.bind("")
        s.sendto(HELLO, "\0" + t["abstract"] + f"-{int(socket.SOCK_DGRAM)}")
        return "sent"


# --- the network ----------------------------------------------------------------------------------------------

PLACES = [("loopback4", socket.AF_INET, "127.0.0.1"), ("any4", socket.AF_INET, "0.0.0.0"),
          ("loopback6", socket.AF_INET6, "::1"), ("mapped", socket.AF_INET6, "::ffff:127.0.0.1")]  # fmt: skip

several("tcp", PLACES, lambda t, family, host: _tcp(family, host, t["tcp"]))
several("udp", PLACES, lambda t, family, host: _udp(family, host, t["udp"]))
several("tcp_fast_open", PLACES[:1], lambda t, family, host: _fast_open(family, host, t["tcp"]))
several("tcp_own_address", [("host", 0)], lambda t, _: _own_addresses(t))


def _tcp(family, host, port):
    with socket.socket(family, socket.SOCK_STREAM) as s:
        s.settimeout(4)
        s.connect((host, port))
        return speak(s)


def _udp(family, host, port):
    with socket.socket(family, socket.SOCK_DGRAM) as s:
        return _ask(s, HELLO, (host, port))


def _ask(s, what, where):
    """A datagram that was sent may have gone nowhere; the canary answers."""
    s.settimeout(3)
    s.sendto(what, where)
    return f"answered {s.recv(100)[:20]}"


def _fast_open(family, host, port):
    with socket.socket(family, socket.SOCK_STREAM) as s:
        s.settimeout(4)
        s.sendto(HELLO, 0x20000000, (host, port))
        return "sent"


def _own_addresses(t):
    reached = []
    for host in t["addresses"]:
        try:
            reached.append(_tcp(socket.AF_INET6 if ":" in host else socket.AF_INET, host, t["tcp"]))
        except OSError:
            continue
    return reached or None


@attempt
def dns_by_udp(t):
    """A query to the canary, as a resolver would send it: the name alone would carry a secret out."""
    query = struct.pack(">HHHHHH", 7, 0x100, 1, 0, 0, 0) + b"\6secret\4test\0" + struct.pack(">HH", 1, 1)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        return _ask(s, query, ("127.0.0.1", t["udp"]))


@attempt
def dns_by_the_library(t):
    """A name that only the host's own resolver or hosts file knows."""
    return socket.getaddrinfo(t["hostname"], 80)[0][4][0]


@attempt
def icmp(t):
    with socket.socket(socket.AF_INET, socket.SOCK_RAW, 1) as s:
        s.sendto(b"\x08\0\xf7\xff\0\0\0\0", ("127.0.0.1", 0))
        return "sent"


@attempt
def multicast(t):
    if t["control"]:
        raise Absent("nothing leaves the loopback of the host")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        s.sendto(HELLO, ("224.0.0.251", 5353))
        return "sent"


@attempt
def broadcast(t):
    if t["control"]:
        raise Absent("nothing leaves the loopback of the host")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        s.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
        return _ask(s, HELLO, ("255.255.255.255", t["udp"]))


@attempt
def raise_an_interface(t):
    if t["control"]:
        raise Absent("nothing leaves the loopback of the host")
    import fcntl

    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        request = struct.pack("16sH14x", b"lo", 0x49)
        fcntl.ioctl(s, 0x8914, request)
        return "raised"


@attempt
def join_another_network(t):
    if t["control"]:
        raise Absent("nothing leaves the loopback of the host")
    call(268 if ARM else 308, os.open(f"/proc/{t['pid']}/ns/net", os.O_RDONLY), 0x40000000)
    return "joined"


main()
