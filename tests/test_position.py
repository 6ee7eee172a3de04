"""A place in a log: what is remembered of it, and where it is found again."""

import io

from dht22.log.position import PLACES, Place, Position, halves, locate, rows_before
from dht22.log.rotated import BLOCK
from support.made import HEADER, content, row


def line(k):
    return row(k).encode().rstrip()


def test_earlier_places_are_few_and_reach_far():
    position = Position(line(0))
    for k in range(20_000):
        offset = position.offset + len(row(k))
        position = Position(line(0), offset, line(k), position.places())
        assert len(position.earlier) <= PLACES
    back = [position.offset - place.offset for place in position.earlier]
    assert back[0] > position.offset / 2 and back[-1] < 100
    assert all(2 * near <= far for far, near in zip(back[:-1], back[1:]))


def test_line_is_found_at_its_place_else_elsewhere_else_an_earlier_one():
    rows = [row(k) for k in range(9)]
    offset = len(HEADER) + sum(map(len, rows[:7]))
    earlier = tuple(Place(len(HEADER) + sum(map(len, rows[: k + 1])), line(k)) for k in (1, 4))
    position = Position(line(0), offset, line(6), earlier)

    def found(*rows):
        return locate(io.BytesIO(content(*rows)), position)

    assert found(*rows) == (offset, line(6))
    assert found(*rows[2:]) == (offset - 2 * len(row(0)), line(6)), "lines were taken out before it"
    assert found(*rows[:6], *rows[7:]) == earlier[1], "it was taken out itself"
    assert found(*rows[:3]) == earlier[0]
    assert found(*rows[7:]) == (0, b"")
    assert found(*rows[:7], row(6)) == (offset, line(6)), "the first of two"


def test_line_of_which_another_one_is_the_end_is_not_taken_for_it():
    """As a line that is longer than a block leaves its end alone."""
    position = Position(line(0), 0, b"", ())
    assert locate(io.BytesIO(content(row(0))), position) == (0, b"")
    nuls = bytes(9) + b"\n"
    position = Position(line(0), len(content(row(0), nuls)), bytes(5), ())
    assert locate(io.BytesIO(content(row(0), nuls)), position) == (position.offset, bytes(5))
    assert locate(io.BytesIO(content(row(0), row(1), nuls)), position) == (0, b"")


def test_halves_of_a_long_file_are_near_its_end():
    file = io.BytesIO(content(*map(row, range(9 * BLOCK // len(row(0))))))
    places = halves(file)
    back = [len(file.getvalue()) - place.offset for place in places]
    assert back == sorted(back, reverse=True) and back[-1] < BLOCK
    assert all(locate(file, Position(line(0), *place)) == place for place in places)
    assert halves(io.BytesIO(content(row(0)))) == []


def test_rows_before_an_offset(tmp_path):
    path = tmp_path / "datalog.csv"
    path.write_bytes(content(*map(row, range(9)), b"junk\n", row(9)))
    end = len(content(*map(row, range(9))))
    assert [*rows_before(path, end, 10**6)] == [line(k) for k in range(9)]
    assert [*rows_before(path, end, 3 * len(row(0)) + 5)] == [line(k) for k in range(6, 9)]
