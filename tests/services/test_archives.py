"""What comes out of archives, and what does not, whatever is in them."""

from __future__ import annotations

import contextlib
import gzip
import io
import os
import random
import shutil
import struct
import subprocess
import tarfile
import time
import tracemalloc
import zipfile
import zlib
from pathlib import Path

import pytest

from lantern.errors import LanternError
from services.archives.names import LONGEST_NAME, Unfit, is_ignored, picture_name
from services.archives.parts import ArchiveTooLarge, BadArchive, Bounds, Member, Skipped
from services.archives.unpack import unpack
from tests.services.packing import gzipped_zeros, tar_header, tarred, zipped

MIB = 2**20
BOUNDS = Bounds(members=100, member_bytes=MIB, all_bytes=4 * MIB)
FILES = {
    "a.png": os.urandom(700),
    "cats/tom.jpg": b"tom" * 5000,
    "cats/" + "siam" * 15 + "/" + "long" * 15 + ".webp": b"",
    "Größe/日本.JPEG": os.urandom(70_000),
}
ARCHIVES = {
    "zip": zipped(FILES),
    "zip-stored": zipped(FILES, zipfile.ZIP_STORED),
    "tar": tarred(FILES),
    "tar-gnu": tarred(FILES, kind=tarfile.GNU_FORMAT),
    "tar-ustar": tarred({n: d for n, d in FILES.items() if n.isascii()}, kind=tarfile.USTAR_FORMAT),
    "tar.gz": tarred(FILES, pack=":gz"),
}
EVERY_KIND = pytest.mark.parametrize("pack", [zipped, tarred], ids=["zip", "tar"])


def members(data: bytes, bounds: Bounds = BOUNDS) -> dict[str, bytes]:
    return {one.name: one.data for one in unpack(data, bounds) if isinstance(one, Member)}


def read_by_zipfile(data: bytes, name: str) -> bytes | None:
    """Let the standard library read a member; None where it cannot."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            return archive.read(name)
    except (zipfile.BadZipFile, KeyError, ValueError, NotImplementedError, EOFError, zlib.error):
        return None


def skipped(data: bytes, bounds: Bounds = BOUNDS) -> dict[str, str]:
    return {one.name: one.reason for one in unpack(data, bounds) if isinstance(one, Skipped)}


class TestWhatComesOut:
    @pytest.mark.parametrize("kind", ARCHIVES)
    def test_every_file_under_its_name(self, kind: str) -> None:
        found = members(ARCHIVES[kind])
        assert found == {name: FILES[name] for name in found}
        assert len(found) == (3 if kind == "tar-ustar" else 4)
        assert skipped(ARCHIVES[kind]) == {}

    @pytest.mark.skipif(shutil.which("tar") is None, reason="there is no tar here")
    @pytest.mark.parametrize("format", ["gnu", "pax", "ustar"])
    @pytest.mark.parametrize("option", ["-c", "-cz"])
    def test_what_the_programs_pack(self, tmp_path: Path, format: str, option: str) -> None:
        names = [name for name in FILES if name.isascii()]
        for name in names:
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_bytes(FILES[name])
        command = ["tar", option, "-f", "-", f"--format={format}", "-C", str(tmp_path), "."]
        packed = subprocess.run(command, capture_output=True, check=True).stdout
        assert members(packed) == {name: FILES[name] for name in names}

    def test_one_member_is_in_memory_at_a_time(self) -> None:
        bounds = Bounds(members=100, member_bytes=MIB, all_bytes=64 * MIB)
        files = {f"{n}.png": bytes(MIB) for n in range(32)}
        for data in (zipped(files), tarred(files, pack=":gz")):
            tracemalloc.start()
            assert sum(isinstance(one, Member) for one in unpack(data, bounds)) == 32
            assert tracemalloc.get_traced_memory()[1] < 6 * MIB
            tracemalloc.stop()

    @EVERY_KIND
    def test_folders_and_hidden_files_are_left_out_without_a_word(self, pack: object) -> None:
        names = (
            "__MACOSX/._a.png", ".DS_Store", "cats/.hidden.png", ".git/x.png", "a/__MACOSX/b.png"
        )  # fmt: skip
        data = pack(dict.fromkeys(names, b"x") | {"./ok.png": b"y"})  # type: ignore[operator]
        assert (members(data), skipped(data)) == ({"ok.png": b"y"}, {})

    def test_an_empty_archive_has_nothing_in_it(self) -> None:
        for data in (zipped({}), tarred({}, pack=":gz")):
            assert list(unpack(data, BOUNDS)) == []

    def test_names_that_are_utf_8_without_saying_so(self) -> None:
        data = ARCHIVES["zip"]
        unmarked = bytearray(data)
        for sign, at in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
            start = data.find(sign)
            while start >= 0:
                unmarked[start + at + 1] &= ~0x08
                start = data.find(sign, start + 1)
        assert members(bytes(unmarked)) == FILES


class TestNames:
    @pytest.mark.parametrize(
        ("raw", "name"),
        [
            ("a.png", "a.png"), ("./x//y/./z.jpg", "x/y/z.jpg"), ("cats\\tom.jpg", "cats/tom.jpg"),
            ("a b.png", "a b.png"), ("u\u0308.png", "\u00fc.png"), ("...png", "...png"),
        ],
    )  # fmt: skip
    def test_a_name_is_a_path_with_slashes(self, raw: str, name: str) -> None:
        assert picture_name(raw) == name

    @pytest.mark.parametrize(
        "raw",
        [
            "../a.png", "a/../../b.png", "/etc/a.png", "\\\\host\\a.png", "C:\\a.png", "c:a.png",
            "..", "a/..", "..\\a.png", "", "/", ".", "./.", "a\x00.png", "a\nb.png", "\x1b[0m.png",
            "\udce4.png", "a\u202egnp.exe", "x" * (LONGEST_NAME + 1), "ü" * 128,
        ],
    )  # fmt: skip
    def test_what_leads_out_or_cannot_be_shown_is_no_name(self, raw: str) -> None:
        with pytest.raises(Unfit):
            picture_name(raw)

    def test_what_is_hidden(self) -> None:
        assert all(map(is_ignored, (".a", "a/.b/c", "__MACOSX/a", "a\\.b")))
        assert not any(map(is_ignored, ("a", "./a", "../a", "a.b/c", "MACOSX")))


class TestWhatIsSkipped:
    @EVERY_KIND
    @pytest.mark.parametrize(
        ("name", "reason"),
        [
            ("notes.txt", "ends in none"), ("png", "ends in none"), ("a.bmp", "ends in none"),
            ("inner.zip", "archive in an archive"), ("inner.tar.gz", "archive in an archive"),
            ("../up.png", "leads out"), ("/abs.png", "leads out"), ("a/../../b.png", "leads out"),
            ("C:/win.png", "leads out"), ("..\\win.png", "leads out"),
            ("tab\t.png", "cannot be shown"), ("x" * 260 + ".png", "more than 255 bytes"),
        ],
    )  # fmt: skip
    def test_by_its_name(self, pack: object, name: str, reason: str) -> None:
        data = pack({name: b"x", "ok.png": b"y"})  # type: ignore[operator]
        assert members(data) == {"ok.png": b"y"}
        ((found, why),) = skipped(data).items()
        assert found == name
        assert reason in why

    @EVERY_KIND
    def test_by_its_size(self, pack: object) -> None:
        data = pack({"large.png": bytes(MIB + 1), "ok.png": bytes(MIB)})  # type: ignore[operator]
        assert list(members(data)) == ["ok.png"]
        assert skipped(data) == {"large.png": f"it has more than {MIB} bytes"}

    def test_links_and_devices_of_a_tar(self) -> None:
        out = io.BytesIO()
        with tarfile.open(fileobj=out, mode="w") as archive:
            for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE):
                info = tarfile.TarInfo(f"{kind.decode()}.png")
                info.type, info.linkname = kind, "/etc/passwd"
                archive.addfile(info)
            info = tarfile.TarInfo("ok.png")
            info.size = 1
            archive.addfile(info, io.BytesIO(b"y"))
        data = out.getvalue()
        assert members(data) == {"ok.png": b"y"}
        assert skipped(data) == dict.fromkeys(
            ("2.png", "1.png", "3.png", "6.png"), "it is a link, or no plain file"
        )

    def test_links_of_a_zip(self) -> None:
        out = io.BytesIO()
        with zipfile.ZipFile(out, "w") as archive:
            link = zipfile.ZipInfo("link.png")
            link.create_system, link.external_attr = 3, 0o120777 << 16
            archive.writestr(link, "/etc/passwd")
        assert skipped(out.getvalue()) == {"link.png": "it is a link"}

    def test_what_is_encrypted(self) -> None:
        data = bytearray(zipped({"a.png": b"secret"}))
        data[data.find(b"PK\x01\x02") + 8] |= 1
        assert skipped(bytes(data)) == {"a.png": "it is encrypted"}

    @pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
    def test_what_is_packed_by_methods_without_bounds(self, method: int) -> None:
        assert "deflate" in skipped(zipped({"a.png": bytes(1000)}, method))["a.png"]

    def test_a_damaged_file_of_a_zip_harms_no_other(self) -> None:
        good = zipped({"a.png": b"AAAAA" * 99, "b.png": b"B" * 500}, zipfile.ZIP_STORED)
        bad = good.replace(b"AAAAA", b"AAAAC", 1)
        assert members(bad) == {"b.png": b"B" * 500}
        assert skipped(bad) == {"a.png": "it is damaged"}


class TestBombs:
    def refused(self, data: bytes, bounds: Bounds = BOUNDS, *, seconds: float = 2.0) -> None:
        """Check that an archive is refused soon, and with little memory."""
        started = time.thread_time()
        tracemalloc.start()
        try:
            with pytest.raises((ArchiveTooLarge, BadArchive)):
                for _ in unpack(data, bounds):
                    pass
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        assert time.thread_time() - started < seconds
        assert peak < 16 * MIB

    def test_many_members_that_come_to_too_much(self) -> None:
        files = {f"{n}.png": bytes(MIB) for n in range(5)}
        for data in (zipped(files), tarred(files), tarred(files, pack=":gz")):
            assert len(members(data, Bounds(100, MIB, 6 * MIB))) == 5
            self.refused(data)

    def test_much_behind_little(self) -> None:
        bomb = gzipped_zeros(tar_header("a.png", 64 * MIB), 64 * MIB)
        assert len(bomb) < MIB // 2
        self.refused(bomb)

    def test_a_long_header_of_a_tar(self) -> None:
        for kind in (tarfile.XHDTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK):
            self.refused(gzipped_zeros(tar_header("x", 32 * MIB, kind), 32 * MIB))

    def test_headers_without_end(self) -> None:
        header = tar_header("x", 0, tarfile.GNUTYPE_LONGNAME)
        self.refused(gzip.compress(header * 20_000), seconds=5)

    def test_a_packed_stream_of_empty_streams(self) -> None:
        self.refused(gzip.compress(b"") * 200_000)

    def test_more_members_than_may_be(self) -> None:
        files = {f"{n}.txt": b"" for n in range(101)}
        for data in (zipped(files), tarred(files)):
            with pytest.raises(ArchiveTooLarge, match="more than 100 members"):
                skipped(data)

    def test_a_directory_of_a_million_entries(self) -> None:
        count = 60_000
        directory = b"PK\x01\x02" + bytes(42)
        end = struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, count, count, 46 * count, 4, 0)
        self.refused(b"PK\x03\x04" + directory * count + end)

    def test_files_that_give_more_than_they_announce(self) -> None:
        data = bytearray(zipped({"a.png": bytes(900_000)}))
        for sign, at in ((b"PK\x03\x04", 22), (b"PK\x01\x02", 24)):
            struct.pack_into("<L", data, data.find(sign) + at, 10)
        started = time.thread_time()
        assert skipped(bytes(data)) == {"a.png": "it is damaged"}
        assert time.thread_time() - started < 0.5

    def test_members_that_lie_over_each_other(self) -> None:
        """Fifield's bomb: every entry of the directory names the same packed bytes."""
        kernel = zlib.compress(bytes(MIB), 9)[2:-4]
        name = b"a.png"
        local = struct.pack(
            "<4s5H3L2H", b"PK\x03\x04", 20, 0, 8, 0, 0, zlib.crc32(bytes(MIB)), len(kernel), MIB,
            len(name), 0,
        ) + name + kernel  # fmt: skip
        entry = struct.pack(
            "<4s6H3L5H2L", b"PK\x01\x02", 20, 20, 0, 8, 0, 0, zlib.crc32(bytes(MIB)), len(kernel),
            MIB, len(name), 0, 0, 0, 0, 0, 0,
        ) + name  # fmt: skip
        count = 90
        end = struct.pack(
            "<4s4H2LH", b"PK\x05\x06", 0, 0, count, count, len(entry) * count, len(local), 0
        )
        data = local + entry * count + end
        with zipfile.ZipFile(io.BytesIO(data)) as archive:  # the standard library reads it
            assert len(archive.infolist()) == count
        self.refused(data)

    def test_damaged_members_count_as_much_as_others(self) -> None:
        files = {f"{n}.png": bytes(MIB) for n in range(50)}
        data = zipped(files)
        wrong = data.replace(struct.pack("<L", zlib.crc32(bytes(MIB))), b"\1\2\3\4")
        assert wrong != data
        self.refused(wrong)

    def test_long_packed_data_of_short_files(self) -> None:
        body = os.urandom(MIB)
        data = bytearray(zipped({"a.png": body}, zipfile.ZIP_STORED))
        for sign, at in ((b"PK\x03\x04", 22), (b"PK\x01\x02", 24)):
            struct.pack_into("<L", data, data.rfind(sign) + at, 10)
        assert skipped(bytes(data)) == {"a.png": "it is damaged"}


class TestDamage:
    @pytest.mark.parametrize(
        "data",
        [
            b"", b"PK", b"PK\x03\x04", b"PK\x05\x06", b"\x1f\x8b", b"no archive at all",
            gzip.compress(b"no tar"), gzip.compress(b""), b"x" * 257 + b"ustar" + b"x" * 250,
            b"\x89PNG\r\n\x1a\n" + bytes(600), b"BZh91AY&SY" + bytes(300),
        ],
        ids=range(11),
    )  # fmt: skip
    def test_what_is_no_archive_is_refused(self, data: bytes) -> None:
        with pytest.raises(BadArchive):
            list(unpack(data, BOUNDS))

    @pytest.mark.parametrize("kind", ARCHIVES)
    def test_what_is_cut_short_is_refused(self, kind: str) -> None:
        data = ARCHIVES[kind]
        for share in (0.05, 0.1, 0.5):
            with pytest.raises(BadArchive):
                list(unpack(data[: int(len(data) * share)], BOUNDS))

    def test_zip64_is_refused_with_what_to_do(self) -> None:
        data = bytearray(ARCHIVES["zip"])
        struct.pack_into("<L", data, len(data) - 6, 0xFFFFFFFF)
        with pytest.raises(BadArchive, match="zip64"):
            list(unpack(bytes(data), BOUNDS))

    @pytest.mark.parametrize("kind", ARCHIVES)
    def test_random_damage_gives_a_refusal_or_the_rest(self, kind: str) -> None:
        chance = random.Random(kind)
        whole = ARCHIVES[kind]
        for _ in range(400):
            data = bytearray(whole)
            for _ in range(chance.choice((1, 3, 30))):
                data[chance.randrange(len(data))] = chance.randrange(256)
            if chance.random() < 0.3:
                at = chance.randrange(len(data))
                data[at : at + chance.randrange(2000)] = chance.randbytes(chance.randrange(600))
            try:
                found = list(unpack(bytes(data), BOUNDS))
            except LanternError:
                continue
            assert all(isinstance(one, Member | Skipped) for one in found)
            assert all(picture_name(one.name) for one in found if isinstance(one, Member))

    @pytest.mark.parametrize("seed", range(8))
    def test_what_is_read_of_a_damaged_zip_is_what_the_standard_library_reads(
        self, seed: int
    ) -> None:
        chance = random.Random(seed)
        both = 0
        for _ in range(60):
            data = bytearray(ARCHIVES["zip"])
            for _ in range(3):
                data[chance.randrange(len(data))] = chance.randrange(256)
            with contextlib.suppress(LanternError):
                for name, body in members(bytes(data)).items():
                    theirs = read_by_zipfile(bytes(data), name)
                    assert theirs in (body, None)
                    both += theirs == body
        assert both > 60
