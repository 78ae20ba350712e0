"""Disks of a test's own: ext4 images on loop devices that fill up or lose power."""

import fcntl
import os
import struct
import subprocess

# linux/fs/ext4: _IOR('X', 125, __u32); 2 = EXT4_GOING_FLAGS_NOLOGFLUSH, the journal is not flushed either.
EXT4_IOC_SHUTDOWN = 0x8004587D
NOLOGFLUSH = 2


class Image:
    """An ext4 file system of `megabytes` on a loop device, mounted at `mount`."""

    def __init__(self, directory, megabytes):
        self.image = directory / "disk.img"
        self.mount = directory / "disk"
        self.megabytes = megabytes
        self.powered, self.to_release = True, False

    def __enter__(self):
        self.mount.mkdir()
        with open(self.image, "wb") as image:
            image.truncate(self.megabytes << 20)
        subprocess.run(["mkfs.ext4", "-q", "-F", "-m", "0", str(self.image)], check=True)
        self._mount()
        return self

    def _mount(self):
        subprocess.run(["mount", "-o", "loop", str(self.image), str(self.mount)], check=True)

    def _unmount(self):
        subprocess.run(["umount", str(self.mount)], check=True)

    def __exit__(self, *_):
        subprocess.run(["umount", "-l", str(self.mount)], check=False, capture_output=True)

    def power_cut(self):
        """The disk stops at once: nothing that is not on it already will ever be."""
        fd = os.open(self.mount, os.O_RDONLY)
        try:
            fcntl.ioctl(fd, EXT4_IOC_SHUTDOWN, struct.pack("I", NOLOGFLUSH))
        finally:
            os.close(fd)
        self.powered = False

    def power_on(self):
        """Mounts again what the power cut left."""
        self._unmount()
        self._mount()
        self.powered = True
        if self.to_release:
            self.release()

    def release(self):
        """Gives back what `reserve` or `fill` took; where the power is cut, as soon as it is back."""
        self.to_release = not self.powered
        if self.powered:
            (self.mount / "ballast").unlink(missing_ok=True)

    def reserve(self):
        """Takes all free space at once, without writing it; returns the file that holds it. None where the power is cut."""
        if not self.powered:
            return None
        ballast = self.mount / "ballast"
        with open(ballast, "wb", buffering=0) as out:
            free = os.statvfs(self.mount)
            size = free.f_bavail * free.f_frsize
            while size >= free.f_frsize:
                try:
                    os.posix_fallocate(out.fileno(), os.fstat(out.fileno()).st_size, size)
                except OSError:
                    size //= 2
        return ballast

    def fill(self):
        """Takes all free space but a few KiB; returns the file that holds it."""
        ballast = self.mount / "ballast"
        with open(ballast, "wb", buffering=0) as out:
            for size in (1 << 20, 1 << 12):
                try:
                    while True:
                        out.write(b"x" * size)
                except OSError:
                    pass
        return ballast
