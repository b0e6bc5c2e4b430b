"""A report's file: replaced whole, with the rights that it had, and left as it was when writing fails."""

from __future__ import annotations

import os
import stat
import threading
from pathlib import Path

import pytest

from kubectl_svcroute.errors import UsageError
from kubectl_svcroute.run import output_file
from kubectl_svcroute.run.output_file import write_file


def test_a_file_is_replaced_and_keeps_its_rights(tmp_path: Path) -> None:
    """Who may read it may still; nothing else is left in the folder; a link stays a link."""
    target, link = tmp_path / "svcroute.prom", tmp_path / "link.prom"
    target.write_text("old, and longer than what comes")
    target.chmod(0o640)
    link.symlink_to(target)
    for name in (target, link):
        write_file(str(name), f"new {name.name}\n", "the report")
        assert target.read_text() == f"new {name.name}\n"
    assert stat.S_IMODE(target.stat().st_mode) == 0o640
    assert link.is_symlink()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["link.prom", "svcroute.prom"]
    write_file(str(tmp_path / "fresh"), "x\n", "the report")
    assert stat.S_IMODE((tmp_path / "fresh").stat().st_mode) == 0o666 & ~_umask()


def _umask() -> int:
    now = os.umask(0o022)
    os.umask(now)
    return now


def test_nobody_reads_half_of_it(tmp_path: Path) -> None:
    """A collector that reads all the time sees one report or the other."""
    target = tmp_path / "svcroute.prom"
    reports = [letter * 200_000 for letter in "ab"]
    write_file(str(target), reports[0], "the report")
    seen: set[str] = set()
    over = threading.Event()

    def read() -> None:
        while not over.is_set():
            seen.add(target.read_text())

    reader = threading.Thread(target=read)
    reader.start()
    for n in range(40):
        write_file(str(target), reports[n % 2], "the report")
    over.set()
    reader.join()
    assert seen <= set(reports)


def test_a_pipe_is_written_as_it_is(tmp_path: Path) -> None:
    """`-o json=/dev/stdout` and named pipes stay what they are."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    got: list[str] = []
    reader = threading.Thread(target=lambda: got.append(pipe.read_text()))
    reader.start()
    write_file(str(pipe), "whole\n", "the report")
    reader.join()
    assert got == ["whole\n"]
    assert stat.S_ISFIFO(pipe.stat().st_mode)


def test_what_cannot_be_written_is_said(tmp_path: Path) -> None:
    """The name that the user gave, what should have been there, and why not."""
    with pytest.raises(UsageError, match=r"no-such/report\.html: the report cannot be written: No such file"):
        write_file(str(tmp_path / "no-such" / "report.html"), "x", "the report")
    with pytest.raises(UsageError, match="the trace cannot be written: Is a directory"):
        write_file(str(tmp_path), "x", "the trace")


def test_a_link_that_somebody_put_beside_it_is_not_followed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The name of the part is drawn; and if it were guessed, what is there already is not written to."""
    monkeypatch.setattr(output_file, "_drawn", lambda: "guessed")
    victim = tmp_path / "victim"
    victim.write_text("mine")
    (tmp_path / ".report.json.guessed.part").symlink_to(victim)
    with pytest.raises(UsageError, match="cannot be written"):
        write_file(str(tmp_path / "report.json"), "theirs", "the report")
    assert victim.read_text() == "mine"
