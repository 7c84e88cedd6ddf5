"""One thin absl entry per verb."""

import signal
import sys

# python -m launch.VERB: Ctrl-C ends the imports, which take seconds, without a traceback; where a shell's background
# job ignores it, it stays ignored.
if sys.argv[0] == "-m" and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, signal.SIG_DFL)
