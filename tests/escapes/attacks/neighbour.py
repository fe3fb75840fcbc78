"""A session's own work, as another session would like to see it: files, sockets, shared memory, a token everywhere."""

import ctypes
import json
import os
import socket
import sys

t = json.loads(sys.argv[1])
libc = ctypes.CDLL(None, use_errno=True)
for place in ("/tmp", "/var/tmp", "/home/agent", "/dev/shm", "."):
    with open(place + "/secret", "w") as f:
        f.write(t["token"])
    os.chmod(place + "/secret", 0o666)  # noqa: S103 - so that no permission bit is what saves it
abstract, listening = socket.socket(socket.AF_UNIX), socket.socket(socket.AF_UNIX)
abstract.bind("\0" + t["abstract"])
listening.bind("/tmp/listening")
abstract.listen()
listening.listen()
tcp = socket.socket(socket.AF_INET)
try:
    tcp.bind(("127.0.0.1", t["port"]))
    tcp.listen()
except OSError:
    pass  # no network at all in this profile
if os.uname().machine == "x86_64":
    libc.syscall(29, t["key"], 8, 0o1600)
    libc.syscall(240, b"stockade-neighbour", os.O_CREAT | os.O_RDWR, 0o600, None)
print("ready", flush=True)
sys.stdin.read()
