"""User namespaces that only describe an id mapping, for id-mapped mounts (mount_setattr(2), ID-mapped mounts)."""

from __future__ import annotations

import os
import signal

from supervisor.kernel.process import CLONE_NEWUSER, PR_SET_PDEATHSIG, clone, prctl


def mapping(disk_uid: int, disk_gid: int, uid: int, gid: int) -> int:
    """A descriptor of a user namespace that shows `disk_uid`:`disk_gid` of a file system as `uid`:`gid`.

    The namespace is made by root for a helper that ends at once; nothing ever runs in it. Raises OSError, ENOSPC
    when user.max_user_namespaces is 0, EINVAL when the kernel has no user namespaces.
    """
    pid, pidfd = clone(CLONE_NEWUSER)
    if pid == 0:
        try:
            prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
            signal.pause()
        finally:
            os._exit(0)
    try:
        for name, inside, outside in (("uid_map", disk_uid, uid), ("gid_map", disk_gid, gid)):
            fd = os.open(f"/proc/{pid}/{name}", os.O_WRONLY | os.O_CLOEXEC)
            try:
                os.write(fd, b"%d %d 1\n" % (inside, outside))
            finally:
                os.close(fd)
        return os.open(f"/proc/{pid}/ns/user", os.O_RDONLY | os.O_CLOEXEC)
    finally:
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        os.waitid(os.P_PIDFD, pidfd, os.WEXITED)
        os.close(pidfd)
