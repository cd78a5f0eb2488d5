"""Version v1alpha1 of the group `ai.flexinfer`: the first generation of kinds."""
