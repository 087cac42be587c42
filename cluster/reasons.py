"""Why something failed, for the end of a sentence that an operator reads."""

import os
import re

_CALLS = re.compile(r"(?:\[Errno (\d+)\] )?Connect call failed")
"""asyncio tells how it called connect(), and not what the system answered. With several addresses, it tells that of each."""


def why(error: Exception) -> str:
    """The text of an error, without numbers and names of calls."""
    text = (error.strerror if isinstance(error, OSError) else None) or str(error)
    numbers = [int(number) for number in _CALLS.findall(text) if number]
    if not numbers and isinstance(error, OSError) and error.errno and _CALLS.match(text):
        numbers = [error.errno]
    return ", ".join(dict.fromkeys(map(os.strerror, numbers))) or text or type(error).__name__
