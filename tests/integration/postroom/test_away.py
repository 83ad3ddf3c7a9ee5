"""Homes away from the data folder: which of them are left over, and that nobody's mail is taken for one."""

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from postroom.local import away, postgres
from postroom.local.folder import Folder
from stack import traversable

YESTERDAY = away.REST_SECONDS + 3600


def home_of(base: Path, link: Path, rested: float = YESTERDAY) -> Path:
    """A home as `_place` makes it, last used so many seconds ago."""
    link.parent.mkdir(parents=True, exist_ok=True)
    with away.turn(base):
        home = away.make(link, base)
        (home / "pg" / "global").mkdir(parents=True)
        (home / "pg" / "global" / "pg_control").write_bytes(b"")
        link.symlink_to(home / "pg")
    then = time.time() - rested
    for used in (home / "of", home / "pg" / "global" / "pg_control"):
        os.utime(used, (then, then))
    return home


def test_a_home_goes_when_its_data_folder_is_gone_and_no_other_does(tmp_path: Path) -> None:
    base, places = tmp_path / "base", (tmp_path / "temporary",)
    gone = home_of(base, places[0] / "gone" / "pg")
    started_anew = home_of(base, places[0] / "anew" / "pg")
    in_use = home_of(base, places[0] / "in-use" / "pg")
    just_now = home_of(base, places[0] / "just-now" / "pg", rested=60)
    moved_or_not_mounted = home_of(base, tmp_path / "srv" / "mail" / "pg")
    older = home_of(base, places[0] / "older" / "pg")
    (older / "of").unlink()
    kept = home_of(base, places[0] / "kept" / "pg")
    for folder in ("gone", "just-now", "older", "in-use"):
        shutil.rmtree(places[0] / folder)
    shutil.rmtree(tmp_path / "srv")
    (places[0] / "anew" / "pg").unlink()
    (places[0] / "anew" / "pg").symlink_to(kept / "pg")  # another home than its own
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, cwd=in_use / "pg") as server:
        assert sorted(away.sweep(base, places=places)) == sorted([gone, started_anew])
        server.communicate(b"\n")
    assert not gone.exists()
    assert all(home.exists() for home in (in_use, just_now, moved_or_not_mounted, older, kept))
    assert away.sweep(base, places=places) == [in_use]


def test_a_folder_that_is_moved_out_of_the_temporary_ones_keeps_its_home_once_it_has_been_started_there(
    tmp_path: Path,
) -> None:
    base, places = tmp_path / "base", (tmp_path / "temporary",)
    home = home_of(base, places[0] / "try" / "pg")
    shutil.move(places[0] / "try", tmp_path / "mail")
    away.remember(tmp_path / "mail" / "pg", base)
    assert (home / "of").read_text() == f"{tmp_path / 'mail' / 'pg'}\n"
    assert away.sweep(base, 0.0, places) == []


@pytest.mark.skipif(os.getuid() != 0, reason="only root's Postgres runs as somebody else")
def test_the_start_of_another_stack_sweeps_what_a_try_left_behind() -> None:
    with TemporaryDirectory(prefix="postroom-private-") as name:  # 0700: nobody may not enter
        private = Folder(Path(name))
        cluster = postgres.prepare(private, 1, "secret")
        home = cluster.pgdata.parent
        assert home.parent == away.BASE and private.pg.readlink() == cluster.pgdata
        assert postgres.prepare(private, 1, "secret").pgdata == cluster.pgdata
    then = time.time() - YESTERDAY
    for used in (home / "of", home / "pg" / "global" / "pg_control"):
        os.utime(used, (then, then))
    with TemporaryDirectory(prefix="postroom-private-") as name:
        open_to_all = Path(name)
        traversable(open_to_all)
        assert postgres.prepare(Folder(open_to_all), 1, "secret").pgdata == open_to_all / "pg"
        assert not home.exists()
