"""Draw a grid of images from a bundle, without PyTorch: python samples/generate_grid.py BUNDLE grid.png"""

import sys
from pathlib import Path

from sagan_deploy.images import encode_png, grid, to_uint8
from sagan_deploy.runtime import load

bundle, out = Path(sys.argv[1]), Path(sys.argv[2])

with load(bundle) as generator:
    print(generator.choice)
    for rejection in generator.rejected:
        print("not:", rejection)
    classes = range(generator.config.num_classes) if generator.config.conditional else None
    columns = len(classes) if classes else 8
    images = generator.sample(8 * columns, seed=0, classes=classes, truncation=1.5)
    pixels = images if images.dtype == "uint8" else to_uint8(images)
    out.write_bytes(encode_png(grid(pixels, columns)))
