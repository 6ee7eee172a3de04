"""What the kernel shows of the sensors that its own driver reads: IIO devices in /sys."""

from __future__ import annotations

import errno
import glob
import os
from contextlib import suppress

DEVICES = "/sys/bus/iio/devices/iio:device*"
VALUES = "in_humidityrelative_input", "in_temp_input"  # milli-%, milli-°C, of one frame
ERRORS = {errno.ETIMEDOUT: "the sensor does not answer", errno.EIO: "a damaged answer"}
CONFIGS = "/boot/firmware/config.txt", "/boot/config.txt"  # the second on Bullseye


def devices() -> dict[str, int | None]:
    """Return the pin of each sensor that the kernel reads, by the folder of its IIO device.

    A pin is a BCM number, None if it cannot be known.
    """
    found = {}
    for folder in sorted(glob.glob(DEVICES)):
        try:
            with open(os.path.join(folder, "name")) as file:
                name = file.read().strip()
        except OSError:  # it has just been removed
            continue
        if name.startswith("dht11") or is_compatible(folder):
            found[folder] = pin_of(folder, name)
    return found


def is_compatible(folder: str) -> bool:
    """Tell whether a device of another name is one of the driver for DHT11, DHT21 and DHT22."""
    with suppress(OSError), open(os.path.join(folder, "of_node", "compatible"), "rb") as file:
        return b"dht11" in file.read().split(b"\0")
    return False


def pin_of(folder: str, name: str) -> int | None:
    """Return the BCM number of a device's pin, None if it cannot be known."""
    try:
        with open(os.path.join(folder, "of_node", "gpios"), "rb") as file:
            cells = file.read()
    except OSError:
        cells = b""
    if len(cells) >= 8:  # big-endian cells of 32 bits: which GPIO controller, the pin, flags
        return int.from_bytes(cells[4:8], "big")
    try:
        return int(name.partition("@")[2], 16) or None  # older overlays name each one dht11@0
    except ValueError:
        return None


def read(folder: str) -> tuple[float, float]:
    """Return humidity (%) and temperature (°C) of a device; raise RuntimeError, or OSError."""
    values = []
    try:
        for name in VALUES:
            with open(os.path.join(folder, name)) as file:
                values.append(int(file.read()) / 1000)
    except OSError as error:
        if error.errno not in ERRORS:
            raise
        raise RuntimeError(f"{ERRORS[error.errno]} ({error.strerror})") from None
    return values[0], values[1]


def config_hint() -> str:
    """Return what to look at where the Pi's configuration names the driver, but no sensor is."""
    for path in CONFIGS:
        with suppress(OSError), open(path, errors="replace") as file:
            if "dtoverlay=dht11" in file.read():
                return (
                    f" (dtoverlay=dht11 in {path} was not applied: is it a line of its own, above"
                    " every section such as [pi5], and has the Pi been restarted?)"
                )
    return ""
