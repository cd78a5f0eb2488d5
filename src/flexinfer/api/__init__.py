"""The kinds: every field, default and rule, and how their documents are read and written."""
