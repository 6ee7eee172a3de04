"""The modules behind the scripts; each imports only from those above it.

datagram    readings and acknowledgements as they are sent
console     options, errors of one line, output that never waits
stop        Ctrl+C and SIGTERM
resolve     the addresses of a host
linefile    files that whole lines are appended to, safe against crashes

drivers     the ways to the sensor                                      the Pi
sensor      readings that are plausible and confirmed; the power pin
link        the way to the server; the sender of plain readings
spool       what waits to be delivered, on the disk
delivery    the sender of named readings, each until it is acknowledged

inbox       the socket: listen, receive, count what was dropped         the server
logs        the formats .txt, .csv and .db
rotation    what rotation leaves beside a log, packed or not
history     what the logs know of named sensors, for a restart
journal     all logs as one, each with its own backlog
senders     who sends: numbers, duplicates, silence

readings    logs as tables                                              report.py
figures     what there is to say of them
texts       what report.py prints
picture     the plot
follow      the rows of a log from a remembered position on
live        a window with the last minutes

topics      what an MQTT broker is sent, and under which topic          publish.py
bookmark    the position in the log, on the disk
broker      the connection to the broker
publisher   readings from the log to the broker
"""
