"""The application of tasks that fail with a long reason."""


def fail(task: object) -> None:
    """Never succeeds."""
    raise RuntimeError("a long reason " * 900)
