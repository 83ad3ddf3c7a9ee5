import base64
import stat
from pathlib import Path

import pytest

from postroom.console import CannotStart
from postroom.local.folder import FORMAT, load_secrets, lock, open_folder, write_private


def test_secrets_are_made_once_and_private(tmp_path: Path) -> None:
    folder = open_folder(tmp_path / "data")
    made = load_secrets(folder)
    assert stat.S_IMODE(folder.secrets.stat().st_mode) == 0o600
    assert len(base64.b64decode(made.POSTROOM_ENCRYPTION_KEY, validate=True)) == 32
    passwords = {made.POSTROOM_POSTGRES_PASSWORD, made.POSTROOM_DATABASE_PASSWORD, made.POSTROOM_REDIS_PASSWORD}
    assert len(passwords) == 3
    assert load_secrets(open_folder(tmp_path / "data")) == made


def test_secrets_that_lack_one_are_not_replaced(tmp_path: Path) -> None:
    folder = open_folder(tmp_path)
    write_private(folder.secrets, b"POSTROOM_ENCRYPTION_KEY=x\n")
    with pytest.raises(CannotStart, match="lacks POSTROOM_POSTGRES_PASSWORD"):
        load_secrets(folder)
    assert folder.secrets.read_bytes() == b"POSTROOM_ENCRYPTION_KEY=x\n"


def test_lost_secrets_of_a_used_folder_are_not_made_anew(tmp_path: Path) -> None:
    folder = open_folder(tmp_path)
    folder.pg.mkdir()
    (folder.pg / "PG_VERSION").write_text("18\n")
    with pytest.raises(CannotStart, match=r"secrets\.env is missing"):
        load_secrets(folder)


def test_a_folder_of_a_newer_version_is_refused(tmp_path: Path) -> None:
    open_folder(tmp_path)
    (tmp_path / "version").write_text(f"{FORMAT + 1}\n")
    with pytest.raises(CannotStart, match="newer Postroom"):
        open_folder(tmp_path)


def test_a_broken_version_is_refused(tmp_path: Path) -> None:
    (tmp_path / "version").write_text("one")
    with pytest.raises(CannotStart, match="should hold a number"):
        open_folder(tmp_path)


def test_a_file_in_the_way_is_one_clear_line(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("")
    with pytest.raises(CannotStart) as caught:
        open_folder(tmp_path / "data")
    assert "choose another with --data" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_two_stacks_do_not_share_a_folder(tmp_path: Path) -> None:
    folder = open_folder(tmp_path)
    held = lock(folder)
    with pytest.raises(CannotStart, match=r"process \d+"):
        lock(folder)
    held.close()
    lock(folder).close()


def test_a_private_file_is_replaced_as_a_whole(tmp_path: Path) -> None:
    path = tmp_path / "secret"
    write_private(path, b"old")
    write_private(path, b"new")
    assert path.read_bytes() == b"new"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert list(tmp_path.iterdir()) == [path]
