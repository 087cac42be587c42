# A small mailer. Its node, here in examples/: spoolnode join -w mailer (MAILER_SMTP is the mail server, - prints)
# The sender, in another terminal: python mailer.py ada@example.org grace@example.org
"""Mails that a program hands over and forgets: kept on disk, sent in the background, tried again after a failure."""

import os
import smtplib
import sys
import time
from email.message import EmailMessage

from spoolnode import SPOOL_OK, SPOOL_RETRY, spool, spoolraw

PASSWORD_RESET, NEWSLETTER = 1, 50
"""Priorities: the lower number goes first, whatever waits."""


def deliver(message: EmailMessage) -> None:
    """Hands a mail to the server. Raises if the server does not take it."""
    server = os.environ.get("MAILER_SMTP", "-")
    if server == "-":
        print(f"to {message['To']}: {message['Subject']}", flush=True)  # noqa: T201  # its purpose
        return
    host, _, port = server.partition(":")
    with smtplib.SMTP(host, int(port or 25), timeout=30) as smtp:
        smtp.send_message(message)


@spool(timeout=60)
def mail(to: str, subject: str, text: str) -> None:
    """Sends one mail. If the server is away this raises, and the node tries again after longer and longer pauses."""
    message = EmailMessage()
    message["From"], message["To"], message["Subject"] = "mailer@example.org", to, subject
    message.set_content(text)
    deliver(message)


@spoolraw
def newsletter(to: list[str], not_before_hour: int) -> int:
    """One mail for each reader, but not at night: its return value says whether it wants to be called again."""
    if time.localtime().tm_hour < not_before_hour:
        return SPOOL_RETRY
    for reader in to:
        mail.options(priority=NEWSLETTER).spool(reader, "News", "There is nothing new.")
    return SPOOL_OK


def main(readers: list[str]) -> None:
    """Acts as the web application. Each call returns when the task is safe on the node's disk."""
    newsletter.spool(readers, not_before_hour=0)
    for reader in readers:
        mail.options(priority=PASSWORD_RESET).spool(reader, "Your password", "Here is the link: ...")
        mail.options(at=time.time() + 2).spool(reader, "Two seconds later", "Did it work?")


if __name__ == "__main__":
    # The worker imports this file as `mailer`, so its functions must be sent under that name.
    import mailer

    mailer.main(sys.argv[1:])
