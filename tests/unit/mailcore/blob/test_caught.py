from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import UUID

import pytest

from mailcore.blob.caught import CaughtWriter, NewMail, delete_all, list_caught, read_raw, subject_of, write_batch
from mailcore.kit.ids import uuid7_time

AT = datetime(2026, 11, 21, 8, 30, 0, 123000, UTC)


def mail(number: int = 0, *to: str, raw: bytes = b"Subject: hi\r\n\r\nbody\r\n") -> NewMail:
    return NewMail(f"from{number}@a.test", to or ("you@b.test",), raw, "127.0.0.1:1234", AT)


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    raw = bytes(range(256)) + b"\r\n.\r\n"
    (id_,) = write_batch(tmp_path, [mail(1, "A@b.test", "c@d.test", raw=b"Subject: x\r\n\r\n" + raw)])
    (caught,) = list_caught(tmp_path)
    assert caught.id == id_
    assert (caught.mail_from, caught.rcpt_to, caught.subject) == ("from1@a.test", ("A@b.test", "c@d.test"), "x")
    assert (caught.size, caught.received_at, caught.peer) == (14 + len(raw), AT, "127.0.0.1:1234")
    assert read_raw(tmp_path, id_) == b"Subject: x\r\n\r\n" + raw
    assert read_raw(tmp_path, UUID(int=1)) is None


def test_a_folder_without_mail_is_empty(tmp_path: Path) -> None:
    assert list_caught(tmp_path) == []
    assert read_raw(tmp_path, UUID(int=1)) is None
    assert delete_all(tmp_path) == 0


def test_ids_rise_in_the_order_of_writing_also_across_writers(tmp_path: Path) -> None:
    ids = [id_ for _ in range(5) for id_ in write_batch(tmp_path, [mail(), mail(), mail()])]
    assert ids == sorted(ids)
    assert len(set(ids)) == 15
    assert {id_.version for id_ in ids} == {7}
    assert [caught.id for caught in list_caught(tmp_path)] == ids
    assert abs(uuid7_time(ids[0]) - datetime.now(UTC)) < timedelta(minutes=1)


def test_lists_are_filtered(tmp_path: Path) -> None:
    ids = write_batch(
        tmp_path, [mail(n, "Even@b.test" if n % 2 == 0 else "odd@b.test", "all@b.test") for n in range(6)]
    )
    assert [caught.id for caught in list_caught(tmp_path, to="even@B.test")] == ids[::2]
    assert [caught.id for caught in list_caught(tmp_path, after=ids[3])] == ids[4:]
    assert [caught.id for caught in list_caught(tmp_path, to="all@b.test", after=ids[0], limit=2)] == ids[1:3]
    assert list_caught(tmp_path, to="none@b.test") == []
    assert len(list_caught(tmp_path, after=datetime.now(UTC) - timedelta(hours=1))) == 6
    assert list_caught(tmp_path, after=datetime.now(UTC) + timedelta(hours=1)) == []


def test_one_recipient_named_twice_is_one_mail(tmp_path: Path) -> None:
    write_batch(tmp_path, [mail(0, "a@b.test", "A@B.test")])
    assert len(list_caught(tmp_path, to="a@b.test")) == 1


def test_all_can_be_deleted_while_the_writer_goes_on(tmp_path: Path) -> None:
    writer = CaughtWriter(tmp_path)
    (before,) = writer.write_batch([mail()])
    assert delete_all(tmp_path) == 1
    (after,) = writer.write_batch([mail()])
    assert after > before
    assert [caught.id for caught in list_caught(tmp_path)] == [after]
    assert read_raw(tmp_path, before) is None
    writer.close()


def test_a_batch_is_written_as_a_whole_or_not_at_all(tmp_path: Path) -> None:
    writer = CaughtWriter(tmp_path)
    with pytest.raises(AttributeError):
        writer.write_batch([mail(), "not a mail"])  # type: ignore[list-item]
    assert list_caught(tmp_path) == []
    assert len(writer.write_batch([mail()])) == 1
    writer.close()


@pytest.mark.parametrize(
    ("head", "subject"),
    [
        (b"Subject: plain\r\n", "plain"),
        (b"To: a\r\nSUBJECT:  folded\r\n over two\r\nX: y\r\n", "folded over two"),
        (b"Subject: =?utf-8?q?h=C3=A9llo?= =?utf-8?b?IHfDtnJsZA==?=\r\n", "héllo wörld"),
        ("Subject: héllo\r\n".encode(), "héllo"),
        (b"Subject: =?nonsense?q?x?=\r\n", "=?nonsense?q?x?="),
        (b"Subject: \xff\xfe\r\n", "��"),
        (b"X-Subject: no\r\n", ""),
        (b"", ""),
    ],
)
def test_the_subject_is_as_a_reader_sees_it(head: bytes, subject: str) -> None:
    assert subject_of(head + b"\r\nSubject: in the body\r\n") == subject
