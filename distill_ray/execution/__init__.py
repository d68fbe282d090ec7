"""Jobs on Ray: the cluster, one job in a process or over several workers, many in parallel, and the
teacher logits that they share.
"""
