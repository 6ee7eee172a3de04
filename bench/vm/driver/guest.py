#!/usr/bin/python3
"""The first process of the guest with the sensors: compares what is read with what was played."""

import errno
import glob
import os
import re
import subprocess
import time

DEVICES = "/sys/bus/iio/devices/iio:device*"
HUMIDITY, TEMPERATURE = "in_humidityrelative_input", "in_temp_input"
PINS = 11, 4
POLLS = 200
INTERVAL = 3  # seconds
PLAYED = re.compile(r"dht_line: GPIO(\d+) frame \d+: (-?\d+) (-?\d+) (\w+)")
GOOD = "good", "late"  # kinds of frames
PORT = "10001"
MOUNTS = ("proc", "/proc"), ("sysfs", "/sys"), ("devtmpfs", "/dev"), ("tmpfs", "/tmp")


def run(*words):
    """Run a command; return what it said."""
    done = subprocess.run(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    return done.stdout.decode(errors="replace").strip()


def python(*words):
    return run("/usr/bin/python3", *words)


def played():
    """Return pin, reading and kind of each frame that was played, from the kernel's log."""
    frames = PLAYED.findall(run("/bin/busybox", "dmesg"))
    return [
        (int(pin), f"{int(humidity) / 10:.1f},{int(temperature) / 10:.1f}", kind)
        for pin, humidity, temperature, kind in frames
    ]


def read(folder, name):
    """Return what a file of an IIO device says, or the name of its error."""
    try:
        with open(f"{folder}/{name}") as file:
            return file.read().strip()
    except OSError as error:
        return errno.errorcode[error.errno]


def show_devices():
    """Show what the product takes for granted of /sys."""
    for folder in sorted(glob.glob(DEVICES)):
        with open(f"{folder}/of_node/gpios", "rb") as file:
            cells = file.read()
        print(f"{folder}: {' '.join(sorted(os.listdir(folder)))}")
        print(f"    name {read(folder, 'name')}, is {os.path.realpath(folder)}")
        compatible = read(folder, "of_node/compatible").rstrip("\0")
        print(f"    of_node: compatible {compatible}, gpios {cells.hex(' ', 4)}")
        print(f"    mode of the values: {os.stat(f'{folder}/{HUMIDITY}').st_mode & 0o777:o}")


def show_reads():
    """Show what comes of each kind of frame, how long it takes, and how long it is kept."""
    folder = sorted(glob.glob(DEVICES))[0]
    for _ in range(9):
        before = len(played())
        for name in HUMIDITY, TEMPERATURE:
            started = time.monotonic()
            value = read(folder, name)
            took = time.monotonic() - started
            frames = " ".join(f"{reading} {kind}" for _, reading, kind in played()[before:])
            before = len(played())
            print(f"    {name}: {value} after {took:.3f} s; played: {frames or 'nothing'}")
        time.sleep(2.1)
    for seconds in 0, 1.8, 2.2:
        read(folder, TEMPERATURE)
        before = len(played())
        time.sleep(seconds)
        read(folder, TEMPERATURE)
        kept = len(played()) == before
        print(f"    read again after {seconds} s: {'the same frame' if kept else 'a new frame'}")


def poll():
    """Let a client of each sensor send its readings to a server."""
    os.chdir("/tmp")
    server = subprocess.Popen(["/usr/bin/python3", "/server.py", "--quiet", "--port", PORT])
    time.sleep(3)
    clients = []
    for pin in PINS:
        words = ["/usr/bin/python3", "/client.py", "127.0.0.1", "--port", PORT, "--driver", "iio"]
        words += ["--pin", str(pin), "--name", f"GPIO{pin}", "--spool", f"/tmp/{pin}.spool"]
        words += ["--interval", str(INTERVAL), "--count", str(POLLS), "--quiet"]
        with open(f"/tmp/said.{pin}", "w") as said:
            clients.append(subprocess.Popen(words, stderr=said))
    time.sleep(INTERVAL * POLLS / 2)
    bind("unbind", "dht11@b")
    bind("unbind", "dht11@4")
    time.sleep(INTERVAL)
    bind("bind", "dht11@4")
    bind("bind", "dht11@b")
    print("unbound, and bound the other way round:")
    show_devices()
    for pin, client in zip(PINS, clients):
        print(f"client of GPIO{pin} ended: {client.wait()}")
        with open(f"/tmp/said.{pin}") as said:
            print("    " + said.read().strip().replace("\n", "\n    "))
    server.terminate()
    server.wait()


def bind(what, device):
    with open(f"/sys/bus/platform/drivers/dht11/{what}", "w") as file:
        file.write(device)


def compare(frames):
    """Compare what was logged with the frames that were played; return what is wrong."""
    wrong = []
    with open("/tmp/datalog.csv") as file:
        rows = [line.strip().split(",") for line in file][1:]
    for pin in PINS:
        kinds = [kind for each, _, kind in frames if each == pin]
        good = [reading for each, reading, kind in frames if each == pin and kind in GOOD]
        logged = [f"{row[3]},{row[4]}" for row in rows if row[2] == f"GPIO{pin}"]
        counts = ", ".join(f"{kinds.count(kind)} {kind}" for kind in sorted({*kinds}))
        print(f"GPIO{pin}: {len(kinds)} frames played ({counts}), {len(logged)} readings logged")
        if len(logged) != POLLS:
            wrong.append(f"GPIO{pin}: {len(logged)} readings")
        position = 0
        for reading in logged:
            if reading not in good[position:]:
                wrong.append(f"GPIO{pin}: {reading} was not played, or not in this order")
                continue
            position = good.index(reading, position) + 1
    return wrong


def main():
    for kind, where in MOUNTS:
        run("/bin/busybox", "mount", "-t", kind, kind, where)
    run("/bin/busybox", "ifconfig", "lo", "up", "127.0.0.1")
    print("Linux", run("/bin/busybox", "uname", "-rm"), flush=True)
    print("dht_read.py without a driver:", python("/dht_read.py"))
    for module in "industrialio", "dht11", "dht_line":
        print(run("/bin/busybox", "insmod", f"/modules/{module}.ko"), end="")
    show_devices()
    show_reads()
    print("dht_read.py:", python("/dht_read.py"))
    print("dht_read.py --pin 4:", python("/dht_read.py", "--pin", "4"))
    print("dht_read.py --pin 17:", python("/dht_read.py", "--pin", "17"))
    before = len(played())
    poll()
    wrong = compare(played()[before:])
    for line in wrong:
        print("WRONG:", line)
    print(f"wrong: {len(wrong) or 'nothing'}", flush=True)


if __name__ == "__main__":
    try:
        main()
    finally:
        subprocess.run(["/bin/busybox", "poweroff", "-f"])
