"""FlexInfer: one `Model` manifest in, one private OpenAI-compatible endpoint out."""
