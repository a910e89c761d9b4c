"""The README that lies in every bundle: how to embed this very one."""

from __future__ import annotations

from sagan_deploy.bundle.manifest import Artifact, Manifest, image_shape

README_NAME = "README.md"

_TEMPLATE = """\
# A generator of {size}×{size} images

{what} Made by sagan-deploy {version}. `manifest.json` says how it was made and holds the SHA-256 of every file{golden}.

## Use it

```sh
{install}# any machine
{plan_install}sagan-deploy verify .                        # is it whole, and does it draw the right images here?
sagan-deploy generate . --count 16 --out samples.png
```

```python
from sagan_deploy.runtime import load

with load("path/of/this/folder") as generator:
    print(generator.choice, generator.rejected)    # which engine runs, and why not the others
    images = generator.sample(16, seed=0{classes})
    images = generator(z{labels})
```

No PyTorch is needed. One `generator` may be called from many threads.

| array | type | shape | meaning |
|---|---|---|---|
{tensors}

## What is in it

| file | precision | runs on | parity with PyTorch | MB |
|---|---|---|---|---:|
{artifacts}
"""


def render_readme(manifest: Manifest) -> str:
    """The README of the bundle that `manifest` describes, as Markdown."""
    config, first = manifest.generator, manifest.artifacts[0]
    plans = [artifact.plan for artifact in manifest.artifacts if artifact.plan is not None]
    extras = sorted({"rtx" if plan.flavour == "rtx" else "tensorrt" for plan in plans})
    what = f"It knows {config.num_classes} classes." if config.conditional else "It is unconditional."
    if manifest.class_names:
        shown = ", ".join(manifest.class_names[:12])
        rest = len(manifest.class_names) - 12
        what = f"It knows {config.num_classes} classes: {shown}{f' and {rest} more' if rest > 0 else ''}."
    return _TEMPLATE.format(
        size=image_shape(config, "float")[1],
        what=what,
        install=_install("onnxruntime"),
        version=manifest.toolkit_version,
        golden=f";\n`{manifest.golden.path}` holds reference images to replay" if manifest.golden else "",
        plan_install="".join(f"{_install(extra)}# with an NVIDIA GPU\n" for extra in extras),
        classes=f", classes=[{_example_class(manifest)}]" if config.conditional else "",
        labels=", labels" if config.conditional else "",
        tensors="\n".join(
            f"| `{t.name}` | {t.dtype} | {' × '.join(map(str, t.shape))} | {_cell(t.meaning)} |"
            for t in (*first.inputs, *first.outputs)
        ),
        artifacts="\n".join(map(_artifact_row, manifest.artifacts)),
    )


def _install(extra: str) -> str:
    return f"pip install 'sagan-deploy[{extra}]'".ljust(45)


def _example_class(manifest: Manifest) -> str:
    return repr(manifest.class_names[0]) if manifest.class_names else "0"


def _artifact_row(artifact: Artifact) -> str:
    if artifact.plan is None:
        where = "any machine with ONNX Runtime"
    else:
        name = "TensorRT for RTX" if artifact.plan.flavour == "rtx" else "TensorRT"
        where = f"{', '.join(artifact.plan.targets)} with {name} {artifact.plan.tensorrt_version}"
    verdict = artifact.verdict.status.replace("_", " ")
    reason = f": {artifact.verdict.reason}" if artifact.verdict.reason else ""
    size = artifact.size / 1e6
    return f"| `{artifact.path}` | {artifact.precision} | {where} | {_cell(verdict + reason)} | {size:.1f} |"


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")
