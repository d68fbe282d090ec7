"""The stages of a study, on Ray: teach, search, confirm. Importing this package is cheap; Ray comes in with the first job."""

DEFAULT_STORE = "./distill-ray-store"
"""Where results are kept when nothing else is said."""
