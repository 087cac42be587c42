"""Text from anywhere, made safe for a terminal. Everything that is printed for people goes through here.

What can steer a terminal (escapes, controls, changes of direction) is shown as Python writes it: nothing is hidden.
"""

import json


def printable(text: str, keep: str = "") -> str:
    """The text with each character that is not printable as its escape; those in `keep` stay."""
    if text.isprintable():
        return text
    return "".join(sign if sign.isprintable() or sign in keep else _escape(sign) for sign in text)


def printable_lines(text: str) -> str:
    """The same for a text of several lines."""
    return printable(text, "\n\t")


def printable_json(document: str) -> str:
    """A JSON document with such characters as JSON's own escapes: it says the same."""
    if document.isprintable():
        return document
    return "".join(sign if sign.isprintable() or sign == "\n" else json.dumps(sign)[1:-1] for sign in document)


def _escape(sign: str) -> str:
    code = ord(sign)
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
