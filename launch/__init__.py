"""One thin absl entry per verb."""

import signal
import sys

if sys.argv[0] == "-m":  # python -m launch.VERB: Ctrl-C ends the imports, which take seconds, without a traceback
    signal.signal(signal.SIGINT, signal.SIG_DFL)
