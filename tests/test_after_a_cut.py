"""What a power cut leaves beside a log while logrotate packs it, and what readers do with that.

logrotate writes the packed file, puts it on the disk, and then removes the plain one. After a cut
both are there, and of the packed one any part. When it runs again, it moves that aside:

    datalog.csv.1, datalog.csv.1.gz  ->  datalog.csv.2.gz, datalog.csv.1.gz-2026112807.backup
"""

import bz2
import gzip
import lzma
import re
import subprocess

import pytest

from dht22.log.follow import Follower
from dht22.log.position import Position
from dht22.server.recovery import recover
from support.made import content, row, write
from support.rotation import beside
from support.tools import ROOT, needs

OLD = [row(2000 * k, 40 + k * k % 97 / 10, name=("", "kitchen")[k % 2]) for k in range(3000)]
TORN = row(6_000_000)[:30]
NEW = [row(6_002_000 + k) for k in range(3)]
PACKED = gzip.compress(content(*OLD, TORN))
HALF = len(PACKED) // 8192 * 4096
NULS = bytes(4096)
LEFT = {  # of the packed file, and what is said of it
    "nothing": (b"", ""),
    "NULs": (bytes(len(PACKED)), "NUL bytes in it, as after a power cut"),
    "a part": (PACKED[:HALF], "Compressed file ended before the end-of-stream marker was reached"),
    "a part, then NULs": (PACKED[:HALF].ljust(len(PACKED), b"\0"), "NUL bytes in it"),
    "a hole": (PACKED[:HALF] + NULS + PACKED[HALF + 4096 :], "NUL bytes in it"),
    "all": (PACKED, ""),
}


@pytest.fixture(params=LEFT)
def left(request, tmp_path):
    """Return what was said to be left, beside a log with a torn end that nothing mends."""
    content_of_it, said = LEFT[request.param]
    log = tmp_path / "datalog.csv"
    write(beside(log, ".1"), *OLD, TORN)
    beside(log, ".1.gz").write_bytes(content_of_it)
    write(log, *NEW)
    return log, said


def published(log, position=None):
    """Return the position behind each row that follows."""
    follower = Follower(log, position or Position())
    found = [each for some in iter(follower.read, []) for each in some]
    for first in list(follower.opened):
        follower.close(first)
    return found


def rows_of(positions):
    return [position.line.decode() + "\n" for position in positions]


def reported(log):
    """Return the times that report.py takes from a log and all that lies beside it."""
    pytest.importorskip("pandas")
    from dht22.log.rotated import LOG_NAME
    from dht22.report import lines, tables

    paths = [path for path in log.parent.glob("datalog*") if LOG_NAME.fullmatch(path.name)]
    readings, _, _ = tables.read([lines.log_at(path) for path in paths], lambda _: None)
    return sorted(readings.time.dt.strftime("%Y-%m-%dT%H:%M:%S.%f").str[:-3] + "Z")


def times(rows):
    return [each.partition(",")[0] for each in rows]


def test_the_publisher_takes_each_reading_once(left):
    log, _ = left
    found = published(log)
    assert rows_of(found) == [*OLD, *NEW]
    assert rows_of(published(log, found[1999])) == [*OLD[2000:], *NEW]


def test_the_server_knows_what_it_had(left, capfd):
    log, _ = left
    latest = int(NEW[-1].rpartition(",")[2])
    assert recover(str(log)) == {"kitchen": latest}
    assert not capfd.readouterr().err, "all of it is beside it"


def test_the_report_takes_each_reading_once_and_tells_the_damage(left, capfd):
    log, said = left
    assert reported(log) == times([*OLD, *NEW])
    err = capfd.readouterr().err
    assert f"datalog.csv.1 line 3002 skipped (not a row as the server writes it): b'{TORN}" in err
    assert bool(said) == ("datalog.csv.1.gz: read as far as it goes" in err) and said in err


def test_so_they_do_when_logrotate_has_moved_it_aside(left, capfd):
    log, _ = left
    needs("logrotate")
    settings = (ROOT / "deploy/logrotate.conf").read_text()
    settings = settings.replace("/var/lib/dht22/datalog.txt", "")
    settings = settings.replace("/var/lib/dht22/datalog.csv", f'"{log}"')
    conf = log.with_name("conf")
    conf.write_text(settings.replace("su dht22 dht22", ""))
    conf.chmod(0o644)
    command = ["logrotate", "--force", "--state", log.with_name("state"), conf]
    subprocess.run(command, stderr=subprocess.DEVNULL)
    aside = [path.name for path in log.parent.glob("*.backup")]
    assert [re.sub("[0-9]{10}", "", name) for name in aside] == ["datalog.csv.1.gz-.backup"]
    write(log, row(9_000_000))
    expected = [*OLD, *NEW, row(9_000_000)]
    assert rows_of(published(log)) == expected
    assert recover(str(log)) == {"kitchen": int(expected[-1].rpartition(",")[2])}
    assert not capfd.readouterr().err
    assert reported(log) == times(expected)


@pytest.mark.parametrize("module, ending", [(gzip, ".gz"), (lzma, ".xz"), (bz2, ".bz2")])
def test_of_a_packed_log_with_a_hole_what_is_before_it_is_known(tmp_path, capfd, module, ending):
    log = write(tmp_path / "datalog.csv")
    damaged = bytearray(module.compress(content(*OLD)))
    damaged[-4096:] = NULS
    beside(log, ".1" + ending).write_bytes(damaged)
    assert recover(str(log)).keys() <= {"kitchen"}, "no name that nobody has"
    err = capfd.readouterr().err
    assert "(NUL bytes in it, as after a power cut); what else is in it may be logged again" in err
