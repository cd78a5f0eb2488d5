"""OpenAI's API as values: requests, paths, errors, events. Bodies pass through; few fields are read."""
