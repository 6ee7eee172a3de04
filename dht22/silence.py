"""When a sensor counts as silent: one rule for the server, for report.py and for its page.

Home Assistant is told a longer time: EXPIRES_AFTER in publish/messages.
"""

SILENT = 60.0  # seconds without a reading, at least
SILENT_INTERVALS = 5  # of the sensor, at least


def is_silent(age: float, interval: float) -> bool:
    """Tell whether a sensor of this interval is silent, its latest reading being `age` old.

    Both are in seconds.
    """
    return age > max(SILENT, SILENT_INTERVALS * interval)
