"""What a study will cost, estimated in advance, and what `distill-ray bench` measures of it on this
machine.
"""
