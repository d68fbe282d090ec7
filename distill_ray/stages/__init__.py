"""The stages of a study, teach, screen, search, confirm and report, and what is known of them
afterwards.

Importing this package is cheap; Ray comes in with the first job.
"""

DEFAULT_STORE = "./distill-ray-store"
"""Where results are kept when nothing else is said."""
