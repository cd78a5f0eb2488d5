"""The Kubernetes API: object stores, clients and the control loop. It knows nothing of models."""
