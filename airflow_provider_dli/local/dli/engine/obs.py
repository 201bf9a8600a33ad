"""Object storage: ``obs://bucket/folder`` as a folder on this machine that no name can lead out of."""

from __future__ import annotations

import re
from pathlib import Path

SCHEME = "obs://"
BUCKET = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9.-]{0,61}[A-Za-z0-9])?")
FORBIDDEN = re.compile(r'[\x00-\x1f\\:*?"<>|\[\]]')


class ObsError(Exception):
    """A name that is not, or must not be, one of an object or folder."""


class Obs:
    """Buckets as the sub-folders of one folder."""

    def __init__(self, root: Path) -> None:
        self.root = root.resolve()

    def path(self, url: str) -> Path:
        """
        The file or folder behind ``obs://bucket/...``.

        :raises ObsError: for a name that is not allowed.
        """
        check_name(url)
        path = self.root / url[len(SCHEME) :].strip("/")
        # Links are followed here, so that one placed in a bucket cannot lead out either.
        if not path.resolve().is_relative_to(self.root):
            raise ObsError(f"{url} leads out of its bucket")
        return path

    def files(self, path: Path) -> list[Path]:
        """Data files of a table: the file itself, or all in the folder but hidden ones, in order."""
        if path.is_file():
            return [path]
        return sorted(
            file
            for file in path.rglob("*")
            if file.is_file()
            and not any(part.startswith(("_", ".")) for part in file.relative_to(path).parts)
            and file.resolve().is_relative_to(self.root)
        )


def check_name(url: str) -> None:
    """
    :raises ObsError: unless the text is ``obs://bucket/folder...`` with names as OBS allows them.
    """
    if not url.startswith(SCHEME):
        raise ObsError(f"{url[:200]!r} does not start with {SCHEME}")
    bucket, _, rest = url[len(SCHEME) :].partition("/")
    if not BUCKET.fullmatch(bucket) or ".." in bucket or re.search(r"\.[0-9][^.]*$", bucket):
        raise ObsError(f"{bucket[:80]!r} is not the name of a bucket")
    parts = rest.removesuffix("/").split("/")
    if "" in parts:
        raise ObsError("the path must go down to a folder, without empty names")
    if any(FORBIDDEN.search(part) or part.startswith(".") or part.endswith(".") for part in parts):
        raise ObsError("a folder name has characters that are not allowed, or a dot at either end")
    if len(url) > 1000 or any(len(part.encode()) > 250 for part in parts):
        raise ObsError("the path is too long")
