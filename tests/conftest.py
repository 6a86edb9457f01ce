"""Tests meet the frameworks as the tools do: with the workarounds in force."""

import os
import signal

import torch

if not torch.cuda.is_available():
    os.environ['TRITON_INTERPRET'] = '1'  # read when Triton is imported, which torch may do in any test

from lisa_backbone import compat

compat.apply()
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # As shells leave what runs in the background; tools that the tests start and interrupt would never hear of it.
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_terminal_summary(terminalreporter):
    """Say how much of the page was not tested: a skip of all its tests in a browser is easily overlooked."""
    skipped = [one for one in terminalreporter.stats.get('skipped', ()) if 'test_report_browser' in one.nodeid]
    if skipped:
        terminalreporter.section('browser')
        terminalreporter.write_line(
            f'SKIPPED for want of a browser: {len(skipped)} tests of the page; with CI_REQUIRE_BROWSER=1 they fail'
        )
