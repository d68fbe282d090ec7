"""What a deployed network costs: counted before it is trained, and timed."""
