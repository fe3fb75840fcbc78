"""A process to be attacked: it says where its memory is, and on each line of stdin what has become of it."""

import contextlib
import ctypes
import json
import os
import resource
import signal
import sys

received = []
for number in (signal.SIGUSR1, signal.SIGTERM, signal.SIGIO):
    signal.signal(number, lambda n, _: received.append(n))
with contextlib.suppress(OSError):
    ctypes.CDLL(None).prctl(0x59616D61, -1, 0, 0, 0)  # PR_SET_PTRACER_ANY: Yama shall not be what saves it
cell = ctypes.create_string_buffer(b"untouched")
print(json.dumps({"address": ctypes.addressof(cell)}), flush=True)
for _ in sys.stdin:
    with open("/proc/self/status") as f:
        tracer = next(line.split()[1] for line in f if line.startswith("TracerPid"))
    print(json.dumps({
        "cell": cell.value.decode("latin-1"), "signals": received, "nice": os.getpriority(os.PRIO_PROCESS, 0),
        "core": resource.getrlimit(resource.RLIMIT_CORE), "affinity": sorted(os.sched_getaffinity(0)),
        "scheduler": os.sched_getscheduler(0), "tracer": tracer,
    }), flush=True)  # fmt: skip
