"""Version v1alpha2 of the group `ai.flexinfer`."""
