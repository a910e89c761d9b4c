"""The judge: exported files against the float64 reference, image by image, within limits that are derived."""
