"""The one exception that a user is meant to read."""

from __future__ import annotations

import errno
import sys
from collections.abc import Callable


class UserError(Exception):
    """Input that cannot be used, told in one sentence that names the file or key and the mend.

    Library code raises it where the user, not the program, is at fault; :func:`exit_with_sentence` turns it into
    that one line and a non-zero exit.
    """


def exit_with_sentence(main: Callable[[], int | None]) -> None:
    """Run a command line's ``main`` and leave with its exit status, showing a :class:`UserError` as one line.

    Args:
        main: The command; what it returns (``None`` counts as 0) is the exit status.

    An ``OSError`` that names a file is one of the user's as well: a folder in the place of a file, one that may not be
    written, or a full disk.

    Raises:
        SystemExit: Always. The status is 2 after one of these and 130 after an interrupt from the keyboard.
    """
    try:
        status = main() or 0
    except UserError as error:
        print(f'error: {error}', file=sys.stderr)
        status = 2
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            error.filename = error.filename or 'the disk'
        if error.filename is None:
            raise
        said = f'{error.filename} cannot be used ({error.strerror})'
        print(f'error: {said}; name another, or mend this one', file=sys.stderr)
        status = 2
    except KeyboardInterrupt:
        print('stopped; what was saved so far is kept (add --resume to go on where that is offered)', file=sys.stderr)
        status = 130
    sys.exit(status)
