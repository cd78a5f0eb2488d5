"""One machine: models run as processes below one `flexinfer up`."""
