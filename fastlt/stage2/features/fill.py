"""Fills a split of a feature file: extracts the missing rows, pass by pass, and checks every value."""

from collections.abc import Sequence

import numpy as np

from fastlt.core.batches import Batches
from fastlt.core.errors import UserError
from fastlt.core.log import Progress
from fastlt.stage2.features.earlier import Earlier
from fastlt.stage2.features.extract import Rows, extract
from fastlt.stage2.features.network import Network
from fastlt.stage2.features.part import Part
from fastlt.stage2.features.shares import Shares


class UnfitFeature(UserError):
    """Raised for a feature that cannot be stored, as it is not finite or too large for float16."""


def fill(
    part: Part,
    split: str,
    passes: Sequence[Batches],
    model: Network,
    precision: str,
    dtype: str,
    progress: Progress,
    shares: Shares | None = None,
    earlier: Earlier | None = None,
) -> None:
    """Extracts the rows of a split that the file lacks and appends them.

    part: the file. split: the name of the split.
    passes: a loader for each pass over the N images of the split; pass v is epoch v of passes[v].
    precision: fp32 or bf16. dtype: of the stored features. progress: is advanced by the images of each batch.
    shares: what the other ranks extract; None in a process alone.
    earlier: features that some of the images have already; the only pass is then over the images that lack them.

    Raises UnfitFeature at the first feature that is not finite or, for dtype float16, beyond 65504.
    """

    def append(rows: Rows) -> None:
        _check(rows, split, dtype)
        part.append(split, rows.features.astype(dtype, copy=False), rows.labels, rows.ids)
        progress.advance(len(rows.ids), split)

    if earlier is not None:
        done = part.position(split)
        begun = earlier.missing_before(done)
        left = passes if begun < len(earlier.missing) else []
        extracted = (rows for loader in left for rows in extract(model, loader, precision, 0, begun))
        for rows in earlier.merged(extracted, done):
            append(rows)
        assert part.position(split) == len(earlier.ids)
        return
    images = passes[0].images
    for number, loader in enumerate(passes):
        assert loader.images == images, (split, number, loader.images, images)
        done = part.position(split) - number * images
        if done >= images:
            continue
        found = (
            extract(model, loader, precision, number, done)
            if shares is None
            else shares.rows(split, loader, model, precision, number, done)
        )
        for rows in found:
            append(rows)
        assert part.position(split) == (number + 1) * images


def _check(rows: Rows, split: str, dtype: str) -> None:
    limit = np.finfo(dtype).max  # type: ignore[arg-type]
    # The maximum of a row is NaN if any of its values is, and comparisons with NaN are false.
    unfit = np.flatnonzero(~((rows.features.max(1) <= limit) & (rows.features.min(1) >= -limit)))
    if len(unfit):
        features, image = rows.features[unfit[0]], f"image {rows.ids[unfit[0]]} of the {split} split"
        infinite = features[~np.isfinite(features)]
        if len(infinite):
            raise UnfitFeature(
                f"the model gives {'NaN' if np.isnan(infinite).any() else 'inf'} for {image}, features must be finite: "
                "train the representation anew with a lower protocol.lr, or take another one"
            )
        worst = features[np.abs(features).argmax()]
        raise UnfitFeature(
            f"the model gives {worst:.6g} for {image}, float16 holds at most 65504: use feature_dtype=float32"
        )
