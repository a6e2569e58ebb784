"""`python -m pipeline.doctor`: `busi doctor` where the packages of the command line are missing too."""

import sys

from pipeline.doctor import report
from pipeline.runtime import terminal

terminal.prepare()
sys.exit(report.run())
