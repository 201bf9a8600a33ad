# ruff: noqa: S608 - names and texts in the SQL are quoted by name() and text()
"""Export of a query result to ``obs://``."""

from __future__ import annotations

import bz2
import codecs
import contextlib
import shutil
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import duckdb

from airflow_provider_dli.local.dli.bodies import ExportBody
from airflow_provider_dli.local.dli.engine.errors import dli_errors
from airflow_provider_dli.local.dli.engine.obs import Obs
from airflow_provider_dli.local.dli.engine.quoting import name, text
from airflow_provider_dli.local.dli.engine.values import valid_json
from airflow_provider_dli.local.dli.jobs.job import JobFailedError, StoppedError
from airflow_provider_dli.local.dli.jobs.sql_job import Column, Result

CHUNK = 1 << 20


class Compressor(Protocol):
    """Compresses piece by piece."""

    def compress(self, data: bytes, /) -> bytes: ...
    def flush(self) -> bytes: ...


class _Plain:
    def compress(self, data: bytes, /) -> bytes:
        return data

    def flush(self) -> bytes:
        return b""


COMPRESSORS: dict[str, tuple[str, Callable[[], Compressor]]] = {
    "none": ("", _Plain),
    "gzip": (".gz", lambda: zlib.compressobj(wbits=31)),
    "bzip2": (".bz2", bz2.BZ2Compressor),
    # What Hadoop calls deflate has the zlib header.
    "deflate": (".deflate", zlib.compressobj),
}


@dataclass(frozen=True)
class Target:
    """
    What to export and where to.

    :param scratch: Folder for the unfinished files.
    """

    source: Result
    body: ExportBody
    obs: Obs
    scratch: Path


class Export:
    """One export: ``run`` in one thread, ``interrupt`` from another."""

    def __init__(self, cursor: duckdb.DuckDBPyConnection, target: Target) -> None:
        self._cursor, self._target = cursor, target
        self._stopped = False

    def run(self) -> Result:
        """
        :raises JobFailedError: with a DLI code.
        :raises StoppedError: after an interrupt.
        """
        target = self._target
        target.scratch.mkdir(parents=True)
        try:
            with dli_errors():
                folder = self._folder()
                count = self._write_plain(target.scratch / "plain")
                self._convert(target.scratch / "plain", target.scratch / "export")
                self._put(target.scratch / "export", folder)
                return Result(count=count)
        finally:
            self._cursor.close()
            shutil.rmtree(target.scratch, ignore_errors=True)

    def interrupt(self) -> None:
        self._stopped = True
        with contextlib.suppress(duckdb.Error):
            self._cursor.interrupt()

    def _folder(self) -> Path:
        folder = self._target.obs.path(self._target.body.data_path)
        if folder.exists() and self._target.body.export_mode == "ErrorIfExists":
            raise JobFailedError(f"DLI.0006: path {self._target.body.data_path} already exists")
        return folder

    def _write_plain(self, file: Path) -> int:
        """Uncompressed and in UTF-8, which is what DuckDB writes in every format."""
        source, body = self._target.source, self._target.body
        columns = ", ".join(f"{self._cell(number, c)} AS {name(c.name)}" for number, c in enumerate(source.columns))
        limit = f"LIMIT {body.limit_num}" if body.limit_num else ""
        options = ["FORMAT json"]
        if body.data_type == "csv":
            header = str(body.with_column_header).lower()
            quoting = (
                f"QUOTE {text(body.quote_char)}, ESCAPE {text(body.escape_char)}" if body.quote_char else "QUOTE ''"
            )
            options = ["FORMAT csv", f"HEADER {header}", quoting]
        query = f"SELECT {columns} FROM read_parquet({text(source.file)}) {limit}"
        if self._stopped:
            raise StoppedError
        self._cursor.execute(f"COPY ({query}) TO {text(file)} ({', '.join(options)})")
        return int(self._cursor.fetchall()[0][0])

    def _cell(self, number: int, column: Column) -> str:
        """The expression for a column. In CSV, numbers that are not finite are written in Spark's words."""
        if self._target.body.data_type != "csv" or column.type not in ("float", "double"):
            return f"c{number}"
        cases = f"isnan(c{number}) THEN 'NaN' WHEN isinf(c{number}) THEN if(c{number} > 0, 'Infinity', '-Infinity')"
        return f"CASE WHEN {cases} ELSE CAST(c{number} AS VARCHAR) END"

    def _convert(self, plain: Path, folder: Path) -> None:
        """Encode and compress, piece by piece."""
        body = self._target.body
        ending, compressor_of = COMPRESSORS[body.compress]
        compressor = compressor_of()
        decode = codecs.getincrementaldecoder("utf-8")().decode
        folder.mkdir()
        with plain.open("rb") as source, (folder / f"part-00000.{body.data_type}{ending}").open("wb") as out:
            pieces = map(valid_json, source) if body.data_type == "json" else iter(lambda: source.read(CHUNK), b"")
            for piece in pieces:
                if self._stopped:
                    raise StoppedError
                out.write(compressor.compress(decode(piece).encode(body.encoding_type, "replace")))
            out.write(compressor.flush())
        (folder / "_SUCCESS").touch()

    def _put(self, folder: Path, target: Path) -> None:
        """Move into place at once, so that nobody sees half an export."""
        if target.is_dir():
            shutil.rmtree(target)
        elif target.exists():
            target.unlink()
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.move(folder, target)
