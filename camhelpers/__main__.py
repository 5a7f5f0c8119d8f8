"""`python -m camhelpers`."""

import signal
import sys

from camhelpers.cli import main

# A scheduler stops a run with SIGTERM; treat it as Ctrl-C, so that no kernel is left behind.
signal.signal(signal.SIGTERM, signal.default_int_handler)
sys.exit(main())
