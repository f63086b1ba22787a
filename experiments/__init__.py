"""The commands: `python -m experiments.<name>`. The only package that reads the configuration."""

import os
from pathlib import Path

PROJECT = Path(__file__).resolve().parent.parent
os.environ.setdefault("RZERO_ROOT", str(PROJECT))  # conf/config.yaml finds sweeps/ by it, wherever a command starts
