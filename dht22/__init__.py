"""The modules behind the scripts: a folder for each program, and above them what several share.

A module imports only from those above it in this list. The scripts hold the options and the main
loops: `run` in client.py on the Pi, `Server.run` in server.py. publish.py's is `Publisher.run`.

A reading's way:
    1. pi/sensor       `Sensor.read`: a driver's values, confirmed; `check` refuses what is out of
                       range; if each try fails, `run` in client.py counts the poll as failed
    2. client.py       `run` gives it to `PlainSender.send` (pi/link), which sends it once, or to
                       `NamedSender.send` (pi/delivery), which queues it: `transmit` sends the
                       oldest, with its age (`Waiting.age` in pi/spool), until `receive` gets the
                       acknowledgement
    3. server.py       `Server.check` refuses and counts what is not a reading (`datagram.parse`) or
                       may not be sent (`Senders.authenticate`); `Senders.take` stops a named
                       reading that it has had before: a repetition, or a replay
    4. server/writer   `Writer.write` gives it to each log, once; `Backlog` keeps what a log cannot
                       take now, and new named readings are refused meanwhile: they wait on the
                       Pi; then `Server.answer` acknowledges it
    5. log/formats     `TextLog`, `DbLog`, `CsvLog`: `append`
    6. publish.py      `Publisher.run`: `Follower.read` (log/follow), `send`, and `settle`, once
                       the broker has acknowledged it; report.py reads the same logs

dht22/ itself, what several programs share:
    addresses       the addresses of this machine, for lines that tell what to type elsewhere
    datagram        readings and acknowledgements: written, parsed, signed, verified; the ranges
    screen          stdout and stderr, which never keep a script waiting
    stop            what stops a script: Ctrl+C, SIGTERM, a lost terminal
    console         options, one-line errors, messages on stderr
    keys            key files
    resolve         the addresses of a host
    silence         when a sensor counts as silent

log/, the files that the server, report.py and publish.py share; pi/spool uses log/linefile:
    log/linefile    files that whole lines are appended to: torn ends, full disks, renamed
    log/rows        what the server writes: rows, and the lines of a text and a CSV log
    log/formats     the formats .txt, .csv and .db; how to add one
    log/rotated     what rotation leaves beside a log, packed or not
    log/position    a place in a log, and how it is found again in a copy
    log/follow      the rows of a log from a remembered position on

pi/, on the Pi alone, for client.py and dht_read.py:
    pi/iio          what the kernel shows of the sensors that its own driver reads
    pi/drivers      the ways to the sensor; how to add one
    pi/sensor       readings that are plausible and confirmed; the power pin
    pi/link         the connection to the server; the sender of plain readings
    pi/checksum     the lines of the spool; what is intact in a damaged one
    pi/spool        the readings that wait to be delivered, on the disk
    pi/delivery     the sender of named readings, each until it is acknowledged; gives it its n

server/:
    server/arrival      what the kernel tells of a datagram: when it arrived, at which address
    server/inbox        the socket: listen, receive, count what was dropped
    server/recovery     the highest n of each named sensor in the logs, for a restart
    server/writer       all logs as one; what waits for a log while it fails, as on a full disk
    server/remedies     what to do about a log that cannot be opened
    server/senders      who sends: duplicates, silence

report/:
    report/lines    the lines of logs, in blocks, from a time on
    report/times    times and spans, as typed and as shown
    report/tables   logs as tables
    report/latest   the latest reading of each sensor, and what is wrong with it; without pandas
    report/figures  what there is to say of the readings
    report/spans    the figures of each hour or day
    report/texts    what report.py prints
    report/picture  the plot
    report/recent   the readings of the page, as they arrive
    report/page     its plots
    report/viewer   what one viewer sees
    report/serve    the web server

publish/:
    publish/messages    what an MQTT broker is sent, and under which topic
    publish/bookmark    the position in the log, on the disk
    publish/broker      the connection to the broker
    publish/publisher   readings from the log to the broker
"""

import os
import sys

VERSION = "1.0.0"

if sys.version_info < (3, 9):  # noqa: UP036
    script, found = os.path.basename(sys.argv[0]), ".".join(map(str, sys.version_info[:3]))
    sys.exit(f"{script}: error: Python {found} is too old; start it with Python 3.9 or later")
