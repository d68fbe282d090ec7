"""`python -m distill_ray` is the command line."""

import sys

from distill_ray.cli import main

sys.exit(main())
