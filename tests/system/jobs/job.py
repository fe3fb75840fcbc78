#!/usr/bin/env python3
"""A Python program by its first line: processes, threads, shared memory, own sockets, timers, memory maps."""

import asyncio
import ctypes
import json
import mmap
import multiprocessing
import os
import signal
import sqlite3
import ssl
import subprocess
import sys
import tempfile
import threading
from multiprocessing import shared_memory


def square(n):
    return n * n


async def child():
    sort = await asyncio.create_subprocess_exec("sort", "-r", stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    return (await sort.communicate(b"a\nb\nc\n"))[0].decode()


async def over_a_socket(text):
    async def echo(reader, writer):
        writer.write(await reader.read(100))
        await writer.drain()
        writer.close()

    async with await asyncio.start_unix_server(echo, "socket"):
        reader, writer = await asyncio.open_unix_connection("socket")
        writer.write(text.encode())
        writer.write_eof()
        answer = await reader.read()
        writer.close()
    os.unlink("socket")
    return answer.decode()


def main():
    print(sys.argv[1:], os.getcwd() == os.environ["PWD"])
    with multiprocessing.Pool(2) as pool:
        print(pool.map(square, range(5)))
    shared = shared_memory.SharedMemory(create=True, size=64)
    shared.buf[:2] = b"ok"
    print(bytes(shared.buf[:2]))
    shared.close()
    shared.unlink()
    total = []
    threads = [threading.Thread(target=total.append, args=(n,)) for n in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    print(sum(total))
    print(asyncio.run(child()), asyncio.run(over_a_socket("over a unix socket")))
    with tempfile.TemporaryFile() as file:
        file.write(b"mapped" * 1000)
        file.flush()
        with mmap.mmap(file.fileno(), 0) as mapped:
            print(mapped[-6:])
    print(sqlite3.connect(":memory:").execute("select 6 * 7").fetchone(), ssl.OPENSSL_VERSION_INFO[0] >= 1)
    print(ctypes.CDLL(None).abs(-5), json.dumps("ü"))
    signal.signal(signal.SIGALRM, lambda *_: print("alarm"))
    signal.setitimer(signal.ITIMER_REAL, 0.01)
    signal.pause()
    print(subprocess.run(["sh", "-c", "exit 4"], check=False).returncode)
    callback = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_int)(lambda n: n + 1)  # libffi makes executable memory for it
    print(callback(41))


if __name__ == "__main__":
    main()
