"""Code that tests of several files share, importable also by the processes that they start."""
