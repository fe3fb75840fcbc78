"""Whether the names of held files are still those of the files that were held.

A copy is mounted over a file, and the mount belongs to the file and not to its name: who renames another file over it,
outside or in another run, takes the mount away with it. So whoever is about to open a file in a held run is stopped by
the kernel until it was looked (fanotify(7)); from the first time that a held name was touched, nothing more is opened.

Why that is enough: another file is opened by a held name only after a rename or link put it there. As long as it lies
there the name leads to another inode, which `touched` sees. To take it away again, the directory has to be locked anew,
and before it was unlocked the first time, the change was told (inotify(7)); `touched` looks at the name first and at
what was told second.

The kernel asks nobody about a FIFO or /dev/stdin, and a link may lead there. So a change that is told ends the run at
once as well; what such a thing holds can be read only in the moment before.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from supervisor.kernel import mounts as m
from supervisor.kernel import notices

if TYPE_CHECKING:
    from supervisor.launcher.workspace import Workspace


class Guard:
    def __init__(self, place: Workspace, paths: list[str]) -> None:
        """Watch these names from now on: hold the files afterwards. Raises OSError."""
        self._place = place.fd
        self.fd = notices.tell_of_changes()
        self._names: dict[tuple[int, bytes], str] = {}
        self._files: dict[str, tuple[int, int]] = {}
        self._touched = ""
        try:
            for path in paths:
                parts = path.split("/")
                for depth, part in enumerate(parts):
                    self._watch("/".join(parts[:depth]) or ".", os.fsencode(part), path)
        except BaseException:
            self.close()
            raise

    def _watch(self, directory: str, name: bytes, path: str) -> None:
        fd = m.open_beneath(self._place, directory)
        try:
            self._names[notices.watch_names(self.fd, fd), name] = path
        finally:
            os.close(fd)

    def holds(self, path: str, identity: tuple[int, int]) -> None:
        """This (device, inode) is what was held of a path."""
        self._files[path] = identity

    def touched(self) -> str:
        """The path that is, or was for a moment, another file since it is watched; "" while none is."""
        if not self._touched:
            self._touched = self._elsewhere() or self._told()
        return self._touched

    def _elsewhere(self) -> str:
        for path, identity in self._files.items():
            try:
                fd = m.open_beneath(self._place, path)
            except OSError:
                return path
            try:
                info = os.fstat(fd)
            finally:
                os.close(fd)
            if (info.st_dev, info.st_ino) != identity:
                return path
        return ""

    def _told(self) -> str:
        for change in notices.changes(self.fd):
            if change.mask & (notices.IN_Q_OVERFLOW | notices.IN_UNMOUNT):
                return next(iter(self._files), "")
            path = self._names.get((change.watch, change.name))
            if path is not None:
                return path
        return ""

    def close(self) -> None:
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1
