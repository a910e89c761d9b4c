"""From a trained self-attention GAN to engines that run in production, proven to draw the same pictures."""
