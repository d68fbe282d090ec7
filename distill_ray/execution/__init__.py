"""Jobs on Ray: the cluster, one job in a process or over several workers, many side by side, and the signals that they share."""
