"""Public implementations of self-attention GANs: one file each, which says how its tensors become ours."""
