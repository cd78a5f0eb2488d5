"""FlexInfer: one `Model` manifest in, one private OpenAI-compatible endpoint out."""

__version__ = "0.1.0"
