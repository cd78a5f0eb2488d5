"""The proxy: OpenAI's API in front of all models; it wakes those that sleep."""
