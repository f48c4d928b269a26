"""Detection of network filesystems, whose file locks cannot be trusted."""

from __future__ import annotations

from pathlib import Path

__all__ = ["is_network"]

#: What /proc/mounts calls filesystems on which file locks may silently do nothing.
_NETWORK = ("nfs", "nfs4", "cifs", "smb3", "smbfs", "lustre", "gpfs", "beegfs", "ceph", "afs", "9p", "glusterfs",
            "pvfs2", "orangefs", "fuse.sshfs", "fuse.glusterfs", "fuse.ceph", "fuse.s3fs", "fuse.gcsfuse",
            "fuse.juicefs", "fuse.beegfs", "davfs")  # fmt: skip


def is_network(directory: Path, mounts: Path = Path("/proc/mounts")) -> bool:
    """Return True if a directory is on a network filesystem; False if that is unknown.

    The directory need not exist yet.

    Parameters
    ----------
    directory : Path
        Path of the directory.
    mounts : Path
        Table of mounts in the form of Linux.
    """
    try:
        lines = mounts.read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    except OSError:
        return False
    path = directory.resolve()
    kind, depth = "", -1
    for line in lines:
        fields = line.split()
        if len(fields) < 3:
            continue
        # Spaces and their kin are written in octal there.
        point = Path(fields[1].encode("ascii", "surrogateescape").decode("unicode_escape"))
        if (path == point or point in path.parents) and len(point.parts) >= depth:
            kind, depth = fields[2], len(point.parts)
    return kind in _NETWORK
