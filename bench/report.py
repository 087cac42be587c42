"""Rows: the measured values beside their targets; as a table and as JSON."""

import json
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Target:
    """The target of a row: a ratio to the other side, or a bound on our own figure."""

    kind: str
    """`ratio` (at least so many times as good as the other), `most` or `least` (of our own figure)."""
    value: float

    def text(self) -> str:
        """Its text in the table."""
        return {"ratio": "≥ {:.3g}x", "most": "≤ {:.3g}", "least": "≥ {:.3g}"}[self.kind].format(self.value)

    def met(self, ours: float | None, ratio: float | None) -> bool | None:
        """Whether it was reached; None if it was not measured."""
        figure = ratio if self.kind == "ratio" else ours
        if figure is None:
            return None
        return figure <= self.value if self.kind == "most" else figure >= self.value


@dataclass
class Row:
    """One line of the table. `samples` are the single runs, in their order."""

    measurement: str
    what: str
    unit: str
    ours: float | None = None
    other: float | None = None
    ratio: float | None = None
    target: str = ""
    met: bool | None = None
    note: str = ""
    beside: str = "uWSGI"
    """The name of the other side."""
    samples: dict[str, list[float]] = field(default_factory=dict)


def compare(
    measurement: str,
    what: str,
    unit: str,
    ours: Sequence[float] = (),
    other: Sequence[float] = (),
    *,
    target: Target | None = None,
    note: str = "",
    beside: str = "uWSGI",
) -> Row:
    """A row of medians. The ratio says how many times better ours is: more a second, or less of anything else."""
    row = Row(measurement, what, unit, note=note, beside=beside, samples={"ours": list(ours), "other": list(other)})
    row.ours = statistics.median(ours) if ours else None
    row.other = statistics.median(other) if other else None
    if row.ours and row.other:
        row.ratio = row.ours / row.other if unit.endswith("/s") else row.other / row.ours
    if target:
        row.target = target.text()
        row.met = target.met(row.ours, row.ratio)
    return row


def table(rows: Sequence[Row]) -> str:
    """The table, for people."""
    lines = [["", "unit", "spoolnode", "other", "ratio", "target", "met", ""]]
    for row in rows:
        met = {True: "yes", False: "NO", None: "?" if row.target else ""}[row.met]
        ratio = f"{row.ratio:.2f}x" if row.ratio else ""
        lines.append([row.what, row.unit, _number(row.ours), _number(row.other), ratio, row.target, met, row.note])
    widths = [max(len(line[column]) for line in lines) for column in range(8)]
    right = {2, 3, 4}
    text, measurement = [], None
    for number, line in enumerate(lines):
        if number and (rows[number - 1].measurement, rows[number - 1].beside) != measurement:
            measurement = rows[number - 1].measurement, rows[number - 1].beside
            text.append(f"\n{measurement[0]}, beside {measurement[1]}" if measurement[1] else f"\n{measurement[0]}")
        cells = [cell.rjust(widths[i]) if i in right else cell.ljust(widths[i]) for i, cell in enumerate(line)]
        text.append(("  " + "  ".join(cells)).rstrip())
    return "\n".join(text)


def _number(value: float | None) -> str:
    if value is None:
        return "–"
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def write_json(path: Path, machine: dict[str, Any], rows: Sequence[Row], *, update: bool = False) -> None:
    """JSON, for programs. `update`: replaces only the rows that were measured now; `updated` says on which machine that was."""
    content: dict[str, Any] = {"machine": machine, "rows": []}
    if update and path.exists():
        content = json.loads(path.read_text())
        measured = {row.measurement for row in rows}
        content["rows"] = [row for row in content["rows"] if row["measurement"] not in measured]
        content["updated"] = content.get("updated", {}) | dict.fromkeys(sorted(measured), machine)
    content["rows"] += [asdict(row) for row in rows]
    path.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n")
