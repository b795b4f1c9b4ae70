"""The one error that a person's input can cause."""

from __future__ import annotations


class UserError(Exception):
    """Something the user gave is wrong; the message names the place, what is wrong there, and what would be right.

    The command line prints the message alone and exits with code 2.
    """
