"""Rows: what was measured, beside what it was to be; as a table and as JSON."""

import json
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Target:
    """What a row must reach: a ratio to uWSGI, or a bound on our own figure."""

    kind: str
    """`ratio` (at least so many times as good as uWSGI), `most` or `least`."""
    value: float

    def text(self) -> str:
        """As it stands in the table."""
        return {"ratio": "≥ {:.3g}x", "most": "≤ {:.3g}", "least": "≥ {:.3g}"}[self.kind].format(self.value)

    def met(self, ours: float | None, ratio: float | None) -> bool | None:
        """Whether it was reached; None when that was not measured."""
        figure = ratio if self.kind == "ratio" else ours
        if figure is None:
            return None
        return figure <= self.value if self.kind == "most" else figure >= self.value


@dataclass
class Row:
    """One line of the table. `samples` are the single runs, in the order in which they were made."""

    measurement: str
    what: str
    unit: str
    ours: float | None = None
    uwsgi: float | None = None
    ratio: float | None = None
    target: str = ""
    met: bool | None = None
    note: str = ""
    samples: dict[str, list[float]] = field(default_factory=dict)


def compare(
    measurement: str,
    what: str,
    unit: str,
    ours: Sequence[float] = (),
    uwsgi: Sequence[float] = (),
    *,
    target: Target | None = None,
    note: str = "",
) -> Row:
    """A row of medians. The ratio says how many times better ours is: more a second, or less of anything else."""
    row = Row(measurement, what, unit, note=note, samples={"ours": list(ours), "uwsgi": list(uwsgi)})
    row.ours = statistics.median(ours) if ours else None
    row.uwsgi = statistics.median(uwsgi) if uwsgi else None
    if row.ours and row.uwsgi:
        row.ratio = row.ours / row.uwsgi if unit.endswith("/s") else row.uwsgi / row.ours
    if target:
        row.target = target.text()
        row.met = target.met(row.ours, row.ratio)
    return row


def table(rows: Sequence[Row]) -> str:
    """For people."""
    lines = [["", "unit", "spoolnode", "uWSGI", "ratio", "target", "met", ""]]
    for row in rows:
        met = {True: "yes", False: "NO", None: "?" if row.target else ""}[row.met]
        ratio = f"{row.ratio:.2f}x" if row.ratio else ""
        lines.append([row.what, row.unit, _number(row.ours), _number(row.uwsgi), ratio, row.target, met, row.note])
    widths = [max(len(line[column]) for line in lines) for column in range(8)]
    right = {2, 3, 4}
    text, measurement = [], None
    for number, line in enumerate(lines):
        if number and rows[number - 1].measurement != measurement:
            measurement = rows[number - 1].measurement
            text.append(f"\n{measurement}")
        cells = [cell.rjust(widths[i]) if i in right else cell.ljust(widths[i]) for i, cell in enumerate(line)]
        text.append(("  " + "  ".join(cells)).rstrip())
    return "\n".join(text)


def _number(value: float | None) -> str:
    if value is None:
        return "–"
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def write_json(path: Path, machine: dict[str, Any], rows: Sequence[Row]) -> None:
    """For programs."""
    content = {"machine": machine, "rows": [asdict(row) for row in rows]}
    path.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n")
