"""When a cron entry is due: five numbers as in uWSGI, or an expression as in crontab(5). Pure: the time is passed in.

Both follow cron(8) when the hour changes: an entry at fixed hours and minutes that falls into a skipped hour is due when that is
over, and not again in an hour that comes twice; others ("every n minutes") go by the new time.
"""

from datetime import UTC, date, datetime, timedelta, tzinfo
from functools import lru_cache
from zoneinfo import ZoneInfo

from cronsim import CronSim

from spoolnode.node.outcome import Timer

YEARS = 8 * 366
"""Days within which every 29th of February comes (1900 and 2100 have none); an entry that is not due by then never is."""


class LocalTime(tzinfo):
    """The time zone of this machine, for code that wants a zone. `datetime` itself has none for it."""

    def utcoffset(self, when: datetime | None) -> timedelta | None:
        """The offset from UTC at that local time."""
        return when.replace(tzinfo=None).astimezone().utcoffset() if when is not None else None

    def dst(self, when: datetime | None) -> None:  # as `tzinfo` says
        """Unknown, and not needed."""

    def tzname(self, when: datetime | None) -> str | None:
        """The abbreviation that is in force at that local time."""
        return when.replace(tzinfo=None).astimezone().tzname() if when is not None else None

    def fromutc(self, when: datetime) -> datetime:
        """The local time at that time of UTC."""
        return datetime.fromtimestamp(when.replace(tzinfo=UTC).timestamp()).replace(tzinfo=self)  # noqa: DTZ006  # local


LOCAL = LocalTime()


def is_fixed(timer: Timer) -> bool:
    """Whether a cron entry names its hour and minute; cron(8) runs such an entry once a day even when the clocks change."""
    if timer.expression:
        minute, hour, *_ = timer.expression.split()
        return not minute.startswith("*") and not hour.startswith("*")
    return timer.cron[0] >= 0 and timer.cron[1] >= 0


def following(timer: Timer, now: float) -> float:
    """When a cron entry is due next after `now`, in seconds since 1970; infinity for a day that never comes."""
    zone = _zone(timer.zone)
    if timer.expression:
        return _following_of(timer.expression, zone or LOCAL, now)
    today = datetime.fromtimestamp(now, zone).date()
    for days in range(YEARS):
        day = today + timedelta(days=days)
        if _day_fits(timer.cron, day) and (found := _on_day(timer, day, zone, now)) is not None:
            return found
    return float("inf")


@lru_cache(maxsize=64)
def _zone(name: str) -> tzinfo | None:
    """The zone of that name; None for the empty one, which makes `datetime` speak of local time."""
    return ZoneInfo(name) if name else None


def _following_of(expression: str, zone: tzinfo, now: float) -> float:
    for when in CronSim(expression, datetime.fromtimestamp(now, zone)):
        # In an hour that comes twice, that of a fixed entry is the first one, and may be over.
        if (found := when.timestamp()) > now:
            return found
    return float("inf")


def _on_day(timer: Timer, day: date, zone: tzinfo | None, now: float) -> float | None:
    """The first time after `now` on a day that fits; None if there is none."""
    if is_fixed(timer):
        when = _first_time(datetime(day.year, day.month, day.day, timer.cron[1], timer.cron[0], tzinfo=zone))
        return when if when > now else None
    # Steps in seconds, not in local time: there an hour comes twice each autumn, and would be due while it is over.
    when = max(datetime(day.year, day.month, day.day, tzinfo=zone).timestamp(), now // 60 * 60 + 60)
    while (local := datetime.fromtimestamp(when, zone)).date() == day:
        if matches(timer.cron, local):
            return when
        when += 60 if _fits(timer.cron[1], local.hour) else (60 - local.minute) * 60
    return None


def _first_time(local: datetime) -> float:
    """When a local time comes for the first time; for a skipped time, the moment of the change."""
    when, zone = local.timestamp(), local.tzinfo
    if datetime.fromtimestamp(when, zone) == local:
        return when
    # With the offset from before the change it lies after the change, by the time that is skipped.
    offset = datetime.fromtimestamp(when, zone).astimezone(zone).utcoffset()
    while datetime.fromtimestamp(when - 60, zone).astimezone(zone).utcoffset() == offset:
        when -= 60
    return when


def matches(cron: tuple[int, int, int, int, int], when: datetime) -> bool:
    """Whether a cron entry (minute, hour, day, month, weekday; -1 any, -n every n) names this minute.

    As in cron(5): if both day and weekday are given, either is enough. Sunday is 0 and 7.
    """
    return _fits(cron[0], when.minute) and _fits(cron[1], when.hour) and _day_fits(cron, when)


def _day_fits(cron: tuple[int, int, int, int, int], when: date) -> bool:
    _, _, day, month, weekday = cron
    if not _fits(month, when.month):
        return False
    day_fits = _fits(day, when.day)
    weekday_fits = _fits(weekday % 7 if weekday > 0 else weekday, when.isoweekday() % 7)
    if day >= 0 and weekday >= 0:
        return day_fits or weekday_fits
    return day_fits and weekday_fits


def _fits(wanted: int, value: int) -> bool:
    return wanted == value if wanted >= 0 else value % -wanted == 0
