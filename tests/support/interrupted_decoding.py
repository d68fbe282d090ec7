"""A process that decodes with three others, of which one is killed or all are stopped.

`python interrupted_decoding.py FOLDER child` kills each as soon as it has started, and prints the
error; with `parent` it stops them and prints their process ids.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from typing import Any

from distill_ray.data import decode_split, load_images, open_source
from distill_ray.errors import DistillRayError

folder, victim = sys.argv[1:]
decode_split.ROWS_PER_PROCESS, decode_split.cores = 1, lambda: 3


class Interrupted(subprocess.Popen):
    """A process that is killed or stopped at its start."""

    def __init__(self, *arguments: Any, **settings: Any) -> None:
        super().__init__(*arguments, **settings)
        if victim == "child":
            os.kill(self.pid, signal.SIGKILL)
        else:
            print(self.pid, flush=True)
            os.kill(self.pid, signal.SIGSTOP)


subprocess.Popen = Interrupted
try:
    load_images(open_source(folder), "train")
except DistillRayError as error:
    print(type(error).__name__, error)
