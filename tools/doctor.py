#!/usr/bin/env python3
"""Say what is installed, what is as pinned, what was patched, and whether each task can run."""

import sys
import warnings

if __name__ == '__main__':
    warnings.filterwarnings('ignore')  # what the frameworks deprecate is no finding
    try:
        from lisa_backbone.doctor import main
    except ImportError as error:
        print(
            f'error: lisa_backbone cannot be imported ({error}); run `python3 tools/bootstrap.py setup --repair` and '
            'then this with the python of the environment that it makes',
            file=sys.stderr,
        )
        sys.exit(1)
    sys.exit(main())
