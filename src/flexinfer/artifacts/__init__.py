"""What a model is made of: its source, its files, their headers, the memory it takes. Values and bytes only."""
