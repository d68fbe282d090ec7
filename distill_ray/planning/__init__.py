"""What a study will cost before it is begun, and what `distill-ray bench` measures of it on this machine."""
