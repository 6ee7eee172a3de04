"""The picture: by what was drawn, and by how it looks to readers who cannot tell colours apart."""

import itertools
import math
import random
import struct
from datetime import timezone

import pytest

pandas = pytest.importorskip("pandas")
pytest.importorskip("matplotlib")

import matplotlib.backends.backend_agg  # noqa: E402
import matplotlib.figure  # noqa: E402
import matplotlib.image  # noqa: E402
import numpy  # noqa: E402

from dht22.report import figures, lines, picture, tables  # noqa: E402
from support.made import MINUTE, row, write, write_day  # noqa: E402


def examine(log):
    table = tables.read([lines.log_at(log)], lambda text: None)[0]
    return {name: figures.examine(rows) for name, rows in tables.each_sensor(table)}


def draw(sensors, zone=timezone.utc):
    """Return the figure of examined readings by sensor."""
    shown = picture.period(pandas.concat(sensors.values()))
    as_map = len(sensors) > picture.LINES
    sketches = {name: picture.sketch(rows, shown, as_map) for name, rows in sensors.items()}
    return picture.draw(sketches, shown, zone)


def drawn(figure):
    """Draw a figure and return its canvas: positions are known only then."""
    canvas = matplotlib.backends.backend_agg.FigureCanvasAgg(figure)
    canvas.draw()
    return canvas


def legend(figure):
    return [text.get_text().strip() for text in figure.legends[0].get_texts()]


def test_lines_gaps_and_marks(tmp_path):
    minutes = [minute for minute in range(300) if not (100 <= minute < 110 or 200 <= minute < 250)]
    values = [80.0 if minute == 50 else 40.0 + minute % 3 for minute in minutes]
    rows = (row(minute * MINUTE, value) for minute, value in zip(minutes, values))
    figure = draw(examine(write(tmp_path / "datalog.csv", *rows)))
    assert [axis.get_ylabel() for axis in figure.axes] == ["humidity (%)", "temperature (°C)"]
    assert legend(figure) == ["kitchen", "suspicious", "gap"]
    line, lone, marks = figure.axes[0].lines[:3]
    drawn = line.get_ydata()
    assert [value for value in drawn if not math.isnan(value)] == values
    assert [i for i, value in enumerate(drawn) if math.isnan(value)] == [100, 191]
    assert (list(lone.get_ydata()), list(marks.get_ydata())) == ([], [80.0])
    assert [each.get_linestyle() for each in (line, marks)] == ["-", "None"]
    assert marks.get_marker() == "x"
    assert list(figure.axes[1].lines[2].get_ydata()) == []


def test_a_gap_that_is_narrower_than_a_line_has_a_stroke(tmp_path):
    minutes = [minute for minute in range(28 * 1440) if not 20_000 <= minute < 20_010]
    log = write(tmp_path / "datalog.csv", *(row(minute * MINUTE) for minute in minutes))
    figure = draw(examine(log))
    strokes = [line for line in figure.axes[-1].lines if line.get_marker() == "|"]
    assert [len(line.get_xdata()) for line in strokes] == [1, 0]
    assert legend(figure) == ["kitchen", "gap"]


@pytest.mark.parametrize("odd, words", [(0, False), (-56 * 365 * 1440, True), (10**4, False)])
def test_a_row_of_1970_is_told(tmp_path, odd, words):
    minutes = [odd, *range(1000)]
    (table,) = examine(
        write(tmp_path / "datalog.csv", *(row(m * MINUTE) for m in minutes))
    ).values()
    said = picture.mostly(table, picture.period(table))
    assert bool(said) is words
    assert not words or "are of 2026-11-21; choose them by --since and --until" in said


def test_a_reading_between_two_gaps_is_drawn(tmp_path):
    minutes = [0, 1, 2, 3, 50, 98, 99]
    log = write(tmp_path / "datalog.csv", *(row(minute * MINUTE, minute) for minute in minutes))
    lone = draw(examine(log)).axes[0].lines[1]
    assert (list(lone.get_ydata()), lone.get_marker()) == ([50], ".")


@pytest.mark.parametrize("name", ["_hidden", "nan", "NA", "null", "007", "suspicious", "-"])
def test_names_stay_as_they_are(tmp_path, name):
    log = write(
        tmp_path / "datalog.csv", row(0, name=name), row(MINUTE, name=name), row(0, name="")
    )
    sensors = examine(log)
    assert set(sensors) == {name, "192.168.1.7"}
    assert set(legend(draw(sensors))) == {name, "192.168.1.7"}


@pytest.mark.parametrize(
    "width, sensors, length",  # of a picture, and of the window of --live
    [(12, 1, 1), (12, 12, 32), (10, 1, 50), (10, 12, 50)],
)
def test_the_legend_covers_no_data(tmp_path, width, sensors, length):
    (table,) = examine(write(tmp_path / "datalog.csv", row(0), row(MINUTE))).values()
    tables = [f"{k:x}".rjust(length, "s") for k in range(sensors)]
    shown = picture.period(table)
    sketches = dict.fromkeys(tables, picture.sketch(table, shown, False))
    figure = matplotlib.figure.Figure(figsize=(width, 0.6 * width))
    picture.fill(figure, sketches, timezone.utc, shown)
    canvas = drawn(figure)
    box = figure.legends[0].get_window_extent(canvas.get_renderer())
    assert box.y0 > figure.axes[0].get_window_extent(canvas.get_renderer()).y1
    assert box.x0 >= 0 and box.x1 <= figure.bbox.x1 and box.y1 <= figure.bbox.y1
    looks = {(line.get_color(), line.get_marker()) for line in figure.axes[0].lines[::3]}
    assert len(looks) == sensors


# A line of more readings than a picture can show


def plain_thinned(readings, width):
    """The definition, word by word: (ms, value, whether a gap is before it) in columns of ms."""
    columns = {}
    for place, (ms, value, _) in enumerate(readings):
        columns.setdefault(ms // width, []).append((value, place))
    kept = set()
    for column in columns.values():
        values = [value for value, _ in column if value == value]
        kept |= {column[0][1], column[-1][1]}
        for extreme in {min(values), max(values)} if values else set():
            kept.add(next(place for value, place in column if value == extreme))
    line, before = [], None
    for place in sorted(kept):
        ms, value, _ = readings[place]
        if before is not None and any(gap for *_, gap in readings[before + 1 : place + 1]):
            line.append((ms, None))
        line.append((ms, value if value == value else None))
        before = place
    return line


def thinned(readings, width):
    times, values, gap = (numpy.array(each) for each in zip(*readings))
    shown = picture.thinned(times.astype("datetime64[ms]"), values, gap, width / 1000)
    times, values = shown[0].astype("int64").tolist(), shown[1].tolist()
    return [(time, value if value == value else None) for time, value in zip(times, values)]


@pytest.mark.parametrize("width", [1, 7, 500, 10**6])
def test_first_lowest_highest_and_last_of_each_column(width):
    chance = random.Random(width)
    readings, ms = [], 1_795_255_202_123
    for _ in range(3000):
        gap = chance.random() < 0.01
        ms += chance.randrange(1000 if gap else 3)
        value = math.nan if chance.random() < 0.01 else round(chance.gauss(20, 1), 1)
        readings.append((ms, value, gap))
    shown = thinned(readings, width)
    assert shown == plain_thinned(readings, width)
    assert len(shown) <= 5 * (1 + (readings[-1][0] - readings[0][0]) // width + 1)
    values = [value for _, value, _ in readings if value == value]
    drawn = [value for _, value in shown if value is not None]
    assert (min(drawn), max(drawn)) == (min(values), max(values))


@pytest.mark.parametrize("value", [20.5, math.nan])
def test_a_line_of_one_reading_or_none(value):
    assert thinned([(5, value, False)], 10) == [(5, value if value == value else None)]
    nothing = numpy.array([], "datetime64[ns]"), numpy.array([]), numpy.array([], bool)
    assert [len(each) for each in picture.thinned(*nothing, 1.0)] == [0, 0]


def test_a_line_has_a_column_of_pixels_for_each_that_can_be_told_apart(tmp_path):
    rows = [row(minute * MINUTE, minute % 2) for minute in range(5000)]
    (readings,) = examine(write(tmp_path / "datalog.csv", *rows)).values()
    times, _ = picture.sketch(readings, picture.period(readings), as_map=False).lines["humidity"]
    assert len(times) >= 2 * 1000


# Many sensors are a map


def test_a_map_of_60_sensors(tmp_path):
    rows = [
        row(minute * MINUTE, 99 if (minute, k) == (90, 30) else 40 + k / 10, 20, f"s{k:02}")
        for minute in range(200)
        for k in range(60)
        if not (k == 7 and 100 <= minute < 150)
    ]
    figure = draw(examine(write(tmp_path / "datalog.csv", *rows)))
    labels = [text.get_text() for text in figure.axes[0].get_yticklabels()]
    assert labels == [f"s{k:02}" for k in range(60)]
    humidity, temperature = (
        axis.collections[0].get_array().reshape(120, picture.CELLS) for axis in figure.axes[:2]
    )
    empty = numpy.ma.getmaskarray(numpy.ma.masked_invalid(humidity))
    # A gap of 51 intervals in 199, of which the line lasts 2.5
    assert empty[14].mean() == pytest.approx(48.5 / 199, abs=0.02)
    assert not numpy.delete(empty, [14, 15], axis=0).any()
    assert humidity[60].max() == 99.0, "what is suspicious is shown, with a mark"
    assert [len(line.get_xdata()) for line in figure.axes[0].lines[60:62]] == [1, 1]
    assert float(humidity[119].min()) == 45.9 and float(temperature.max()) == 20.0


@pytest.mark.parametrize("size", [(14, 11.7), (10, 6)])  # a picture, and the window of --live
def test_the_words_of_a_map_have_room(tmp_path, size):
    rows = [row(second * 1000) for second in range(0, 600, 20)]
    (table,) = examine(write(tmp_path / "datalog.csv", *rows)).values()
    shown = picture.period(table)
    names = [f"room-{k:02}  50.0 %  -20.0 °C" for k in range(60)]
    figure = matplotlib.figure.Figure(figsize=size)
    sketches = dict.fromkeys(names, picture.sketch(table, shown, True))
    picture.fill(figure, sketches, timezone.utc, shown)
    renderer = drawn(figure).get_renderer()
    names = [text.get_window_extent(renderer) for text in figure.axes[0].get_yticklabels()]
    assert min(name.x0 for name in names) >= 0
    assert all(upper.y0 > lower.y0 + 0.6 * lower.height for upper, lower in zip(names, names[1:]))
    for axis in figure.axes[:2]:
        times = [text.get_window_extent(renderer) for text in axis.get_xticklabels()]
        assert len(times) > 1 and all(one.x1 < next.x0 for one, next in zip(times, times[1:]))


def test_a_cell_shows_its_highest_and_its_lowest_reading(tmp_path):
    rows = [row(second * 1000, 50 + second % 7, round(second / 1000, 1)) for second in range(8001)]
    rows[-1] = row(8_000_000, 50, 7.9)
    (table,) = examine(write(tmp_path / "datalog.csv", *rows)).values()
    high, low = picture.sketch(table, picture.period(table), True).cells["humidity"]
    assert set(high) == {56.0} and set(low) == {50.0}
    high, low = picture.sketch(table, picture.period(table), True).cells["temperature"]
    assert high.tolist() == [round((second + 19) / 1000, 1) for second in range(0, 8000, 20)]
    assert low.tolist() == [*(round(second / 1000, 1) for second in range(0, 7980, 20)), 7.9]


def test_a_map_has_a_last_row(tmp_path, monkeypatch):
    monkeypatch.setattr(picture, "ROWS", 20)
    (table,) = examine(write(tmp_path / "datalog.csv", row(0), row(MINUTE))).values()
    figure = draw({f"s{k}": table for k in range(21)})
    assert len(figure.axes[0].get_yticklabels()) == 20
    assert figure._suptitle.get_text() == "the first 20 of 21 sensors"


# Times


@pytest.mark.parametrize(
    "local, start, end, label, ticks",  # minutes from 2026-11-21T00:00Z
    [
        ("UTC", 0, 60, "UTC), 2026-11-21", "00:10 00:20"),
        ("UTC", 0, 1439, "UTC), 2026-11-21", "Nov-21 03:00 06:00"),
        ("UTC", 0, 1441, "UTC), 2026-11-21 to 2026-11-22", "21:00 Nov-22"),
        ("UTC", 0, 30 * 1440, "UTC), 2026-11-21 to 2026-12-21", "29 Dec-01 05"),
        ("Europe/Berlin", 0, 1439, "CET), 2026-11-21 to 2026-11-22", "03:00 06:00"),
        ("Europe/Berlin", 0, 288_000, "CET, CEST), 2026-11-21 to 2027-06-09", "2027 Feb Mar"),
        # From 18:00 UTC on the day before the clocks are set forward, and back
        ("Europe/Berlin", -341_640, -340_560, "CET, CEST), 2026-03-28 to 2026-03-29", "29 04:00"),
        ("Europe/Berlin", -39_240, -38_160, "CEST, CET), 2026-10-24 to 2026-10-25", "25 02:00"),
        ("Asia/Kolkata", 0, 600, "IST), 2026-11-21", "06:00 07:00"),
    ],
)
def test_the_time_axis(tmp_path, zone, local, start, end, label, ticks):
    zone(local)
    rows = [row(int(minute * MINUTE)) for minute in numpy.linspace(start, end, 200)]
    sensors = examine(write(tmp_path / "datalog.csv", *rows))
    figure = draw(sensors, timezone.utc if local == "UTC" else None)
    drawn(figure)
    axis = figure.axes[-1]
    assert axis.get_xlabel() == f"time ({label}"
    shown = [text.get_text() for text in axis.get_xticklabels()]
    assert ticks in " ".join(shown)


# Files


@pytest.mark.parametrize("ending", [".png", ".svg", ".pdf"])
def test_the_file(tmp_path, ending):
    path = tmp_path / f"report{ending}"
    draw(examine(write_day(tmp_path / "datalog.csv"))).savefig(path, bbox_inches="tight")
    held = path.read_bytes()
    assert len(held) < 300_000
    if ending == ".png":
        width, height = struct.unpack(">II", held[16:24])
        assert 900 < width < 1200 and 500 < height < 700 and len(held) < 100_000
        inked = (matplotlib.image.imread(path)[..., :3].min(axis=2) < 0.9).mean()
        assert 0.01 < inked < 0.5
    assert held.startswith({".png": b"\x89PNG", ".svg": b"<?xml", ".pdf": b"%PDF"}[ending])


# Colours

# What readers see who lack one kind of cone: Machado, Oliveira and Fernandes 2009, severity 1.0
DEFICIENT = {
    "protan": [
        [0.152286, 1.052583, -0.204868],
        [0.114503, 0.786281, 0.099216],
        [-0.003882, -0.048116, 1.051998],
    ],
    "deutan": [
        [0.367322, 0.860646, -0.227968],
        [0.280085, 0.672501, 0.047413],
        [-0.011820, 0.042940, 0.968881],
    ],
    "tritan": [
        [1.255528, -0.076749, -0.178779],
        [-0.078411, 0.930809, 0.147602],
        [0.004733, 0.691367, 0.303900],
    ],
    "nobody": [[1, 0, 0], [0, 1, 0], [0, 0, 1]],
}
XYZ = [
    [0.4124, 0.3576, 0.1805],
    [0.2126, 0.7152, 0.0722],
    [0.0193, 0.1192, 0.9505],
]  # of linear sRGB


def lab(colour, seen):
    """Return a colour in CIE Lab (D65) as it is seen."""
    red_green_blue = numpy.array([int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)])
    low = red_green_blue <= 0.04045
    linear = numpy.where(low, red_green_blue / 12.92, ((red_green_blue + 0.055) / 1.055) ** 2.4)
    linear = numpy.clip(numpy.array(seen) @ linear, 0, 1)
    x, y, z = numpy.cbrt(numpy.array(XYZ) @ linear / [0.9505, 1, 1.089])
    return numpy.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


@pytest.mark.parametrize("deficiency", DEFICIENT)
def test_colours_for_readers_who_cannot_tell_all_apart(deficiency):
    """A difference of 2 is just noticeable, one of 15 can be told in a thin line."""
    seen = [lab(colour, DEFICIENT[deficiency]) for colour in picture.COLOURS]
    for one, other in itertools.combinations(seen, 2):
        assert numpy.linalg.norm(one - other) > 15
    white = lab("#FFFFFF", DEFICIENT[deficiency])
    assert min(numpy.linalg.norm(one - white) for one in seen) > 30
