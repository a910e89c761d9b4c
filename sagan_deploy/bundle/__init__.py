"""The folder that production loads: manifest, artifacts, golden images and how to embed it."""
