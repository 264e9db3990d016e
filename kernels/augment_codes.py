"""Operations on the pixels of an image as rows of numbers: what draws, CPU and GPU agree on.

An operation is a slot of WIDTH float64: its code, then its arguments, the rest 0. An image has a fixed number of slots,
which are carried out in their order; NOTHING stands where there is nothing to do.

code: arguments

- NEAREST, BILINEAR: a, b, c, d, e, f, fill. The pixel whose centre is (x, y) shows what lies at (a x + b y + c,
  d x + e y + f), or the level `fill` where that is outside of the image.
- BRIGHTNESS, CONTRAST, SATURATION, SHARPNESS: factor >= 0; 1 changes nothing.
- HUE: turn in [-0.5, 0.5] of the circle of hues.
- POSTERIZE: bits that each level keeps, 0 to 8.
- SOLARIZE: threshold; levels from it on are inverted.
- AUTOCONTRAST, EQUALIZE, INVERT, GRAYSCALE, VERTICAL_FLIP: none.
- BLUR: taps (odd), sigma in pixels.
- ERASE: y, x, height, width in pixels of what becomes the mean colour, 0 after the normalization. No other operation
  may stand after it.
"""

(
    NOTHING,
    NEAREST,
    BILINEAR,
    BRIGHTNESS,
    CONTRAST,
    SATURATION,
    SHARPNESS,
    HUE,
    POSTERIZE,
    SOLARIZE,
    AUTOCONTRAST,
    EQUALIZE,
    INVERT,
    GRAYSCALE,
    VERTICAL_FLIP,
    BLUR,
    ERASE,
) = range(17)
WIDTH = 8
MAX_TAPS = 255  # of a blur
