"""Resources: which objects the cluster, or the memory store of one machine, should hold for a Model."""
