"""The one exception for mistakes a user can mend."""


class UserError(Exception):
    """Bad configuration or data: one line that names the key or file and what to do.

    The commands print the line and exit with status 2; nothing else is caught.
    """
