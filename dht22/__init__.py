"""The modules behind the scripts; each imports only from those above it.

The scripts hold the options and the main loops. In server.py, `Server.check` decides what is taken
and what is refused, `Server.answer` what is acknowledged, and `Server.notice` reports what was
dropped and who is silent. In client.py, `run` is the loop on the Pi.

For all:
    datagram    the form of readings and acknowledgements: written, parsed, signed and verified
    console     options, one-line errors, output that never blocks
    stop        Ctrl+C and SIGTERM
    resolve     the addresses of a host
    linefile    files that whole lines are appended to: torn ends, full disks

The Pi:
    drivers     the ways to the sensor; how to add one
    sensor      readings that are plausible and confirmed; the power pin
    link        the way to the server; the sender of plain readings
    spool       what waits to be delivered, on the disk
    delivery    the sender of named readings, each until it is acknowledged; draws their numbers

The server:
    inbox       the socket: listen, receive, count what was dropped
    logs        the formats .txt, .csv and .db; how to add one
    rotation    what rotation leaves beside a log, packed or not
    history     the highest number of each named sensor in the logs, for a restart
    journal     all logs as one; what waits for a log while it fails, as on a full disk
    senders     who sends: duplicates, silence

report.py:
    readings    logs as tables
    figures     what there is to say of them
    texts       what report.py prints
    picture     the plot
    follow      the rows of a log from a remembered position on
    live        a window with the last minutes

publish.py:
    topics      what an MQTT broker is sent, and under which topic
    bookmark    the position in the log, on the disk
    broker      the connection to the broker
    publisher   readings from the log to the broker
"""
