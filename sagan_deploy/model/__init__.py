"""The networks: generator and discriminator in training form, and the generator's inference form."""
