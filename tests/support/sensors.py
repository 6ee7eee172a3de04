"""IIO devices, as the kernel shows the sensors that it reads."""

import struct

TWO = [("dht11@4", 4), ("dht11@11", 17)]  # names and pins


def connect(folder, number, name, pin=None, humidity=743, temperature=257):
    """Make an IIO device as the kernel shows it; without a pin it has no of_node."""
    device = folder / f"iio:device{number}"
    device.mkdir(parents=True)
    (device / "name").write_text(f"{name}\n")
    (device / "in_humidityrelative_input").write_text(f"{humidity}00\n")
    (device / "in_temp_input").write_text(f"{temperature}00\n")
    if pin is not None:
        (device / "of_node").mkdir()
        (device / "of_node" / "gpios").write_bytes(struct.pack(">III", 0x10, pin, 0))
    return device
