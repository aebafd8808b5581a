"""What ends a command with one line instead of a traceback."""


class UserError(Exception):
    """Bad configuration or data: one line that names the key or file and what to do.

    The commands print the line and exit with status 2; nothing else is caught.
    """


class RunError(Exception):
    """A run that cannot go on: one line that says why and what is saved; exit status 1."""
