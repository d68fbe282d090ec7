"""The figures of a report, one subject per module: plain data in, matplotlib figures with captions
out.
"""
