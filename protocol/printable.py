"""Text from anywhere, made safe for a terminal. All output for people goes through here.

Characters that can control a terminal (escapes, changes of direction) are shown as Python writes them: nothing is hidden.
"""

import json


def printable(text: str, keep: str = "") -> str:
    """The text with an escape for each character that is not printable, except for those in `keep`."""
    if text.isprintable():
        return text
    return "".join(sign if sign.isprintable() or sign in keep else _escape(sign) for sign in text)


def printable_lines(text: str) -> str:
    """The same for a text of several lines."""
    return printable(text, "\n\t")


def printable_json(document: str) -> str:
    """A JSON document with JSON's own escapes for such characters; its meaning stays the same."""
    if document.isprintable():
        return document
    return "".join(sign if sign.isprintable() or sign == "\n" else json.dumps(sign)[1:-1] for sign in document)


def _escape(sign: str) -> str:
    code = ord(sign)
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
