"""Dates and times as ISO 8601, over all that DuckDB can say and no calendar library holds.

Years are astronomical: ``-0043`` is 44 BC, and years after 9999 simply have more digits.
"""

from typing import Final

_INFINITE_DAYS: Final = 2**31 - 1
_INFINITE_TICKS: Final = 2**63 - 1
_DAY_S: Final = 86_400
_NANOS: Final = 10**9

# A cycle of the Gregorian calendar, and its parts, counted from a 1 March.
_CYCLE_DAYS: Final = 146_097
_EPOCH_FROM_CYCLE: Final = 719_468


def date_text(days: int) -> str:
    """Days since 1970-01-01 as a date."""
    if abs(days) == _INFINITE_DAYS:
        return _infinity(days)
    year, month, day = _civil(days)
    sign = "-" if year < 0 else ""
    return f"{sign}{abs(year):04}-{month:02}-{day:02}"


def timestamp_text(ticks: int, per_second: int, zone: str = "") -> str:
    """Ticks since 1970-01-01T00:00:00 as date and time, with the zone's designator."""
    if abs(ticks) == _INFINITE_TICKS:
        return _infinity(ticks)
    days, rest = divmod(ticks, _DAY_S * per_second)
    return f"{date_text(days)}T{clock_text(rest, per_second)}{zone}"


def clock_text(ticks: int, per_second: int) -> str:
    """Ticks since midnight as a time of day, up to 24:00:00."""
    seconds, fraction = divmod(ticks, per_second)
    shown = f"{seconds // 3600:02}:{seconds // 60 % 60:02}:{seconds % 60:02}"
    digits = len(str(per_second)) - 1
    return f"{shown}.{fraction:0{digits}}".rstrip("0") if fraction else shown


def duration_text(months: int, days: int, nanos: int) -> str:
    """An interval as a duration; each part has its own sign, as in DuckDB."""
    years, months = _towards_zero(months, 12)
    hours, rest = _towards_zero(nanos, 3600 * _NANOS)
    minutes, rest = _towards_zero(rest, 60 * _NANOS)
    date = "".join(f"{count}{letter}" for count, letter in ((years, "Y"), (months, "M"), (days, "D")) if count)
    time = "".join(f"{count}{letter}" for count, letter in ((hours, "H"), (minutes, "M")) if count)
    time += _seconds(rest)
    return f"P{date}T{time}" if time else f"P{date}" if date else "PT0S"


def _seconds(nanos: int) -> str:
    seconds, fraction = divmod(abs(nanos), _NANOS)
    shown = f"{seconds}.{fraction:09}".rstrip("0").rstrip(".")
    return f"{'-' if nanos < 0 else ''}{shown}S" if nanos else ""


def _towards_zero(number: int, unit: int) -> tuple[int, int]:
    whole, rest = divmod(abs(number), unit)
    return (-whole, -rest) if number < 0 else (whole, rest)


def _infinity(number: int) -> str:
    return "infinity" if number > 0 else "-infinity"


def _civil(days: int) -> tuple[int, int, int]:
    """Howard Hinnant's ``civil_from_days``: exact for every day in the proleptic Gregorian calendar."""
    cycle, day = divmod(days + _EPOCH_FROM_CYCLE, _CYCLE_DAYS)
    year = (day - day // 1460 + day // 36_524 - day // 146_096) // 365
    day -= 365 * year + year // 4 - year // 100
    shifted = (5 * day + 2) // 153
    month = shifted + 3 if shifted < 10 else shifted - 9  # noqa: PLR2004 - the year of the cycle begins in March
    return year + cycle * 400 + (month <= 2), month, day - (153 * shifted + 2) // 5 + 1  # noqa: PLR2004 - February
