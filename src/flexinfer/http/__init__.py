"""HTTP plumbing of components that are no proxy: what kubelets and Prometheus ask a process."""
