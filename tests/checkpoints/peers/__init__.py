"""Judges of the checkpoint importer: one file per public implementation, written from its description alone.

Nothing here imports `sagan_deploy`. Each module has two functions:

* `make(seed, **options) -> (payload, options)` draws a random checkpoint in the origin's own file layout: what
  `torch.save` is to be given. The returned options are the given ones with every default filled in, and
  `options["semantics"]`, the keyword arguments with which `draw` reads this payload as its origin would.
* `draw(payload, z, labels, **semantics) -> float64 array [n, 3, height, width]`, RGB in [-1, 1]: the origin's own
  function, straight from its own keys.

`arithmetic` holds what the origins compute, `spread` how random weights are drawn and stored, `containers` the
dictionaries around the state.
"""
