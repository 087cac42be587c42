"""Events of a task or a node in words: for its story, and for `tail`."""

from typing import Any


def detail_of(event: dict[str, Any]) -> str:
    """All that people want to know of an event besides its name, its time and whose it is; in one line."""
    from spoolnode.cli.printing import ago

    length = ago(event["seconds"]) if "seconds" in event else ""
    reason = str(event.get("reason", "")).partition("\n")[0]
    texts = {
        "accepted": f"from {event.get('from', '?')}",
        "started": f"worker {event.get('worker')}, pid {event.get('pid')}",
        "progress": f"{event.get('progress', 0):.0%} {event.get('progress_text', '')}",
        "attempt": " ".join(filter(None, (str(event.get("attempt")), str(event.get("outcome")), length, reason))),
        "dead": reason,
        "forwarded": f"to {event.get('to')}",
        "merged": f"into {event.get('into')}, which waited",
        "peer": f"{event.get('name') or '-'} is {event.get('state')}",
        "lost": f"{event.get('events')} events were lost here: they came faster than they were read",
    }
    return texts.get(event["event"], length).rstrip()
