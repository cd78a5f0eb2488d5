"""The engine of this package: llama.cpp in a process of its own, and the demo model."""
