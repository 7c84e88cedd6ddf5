"""One thin absl entry per verb."""

import signal
import sys

from launch import memory

if sys.argv[0] == "-m":  # python -m launch.VERB, and nothing imported yet
    # Ctrl-C ends the imports, which take seconds, without a traceback; where a shell's background job ignores it, it
    # stays ignored.
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    memory.start_with_settings()
