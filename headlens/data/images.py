"""Image files as tensors: what is stored, whatever the mode it is stored in, or an error that names the file."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor

from headlens.data.decoding import decoded
from headlens.data.pixel_values import image_of, mask_of
from headlens.files import MAX_PIXELS

_READ = ".png .jpg .jpeg .jpe .jfif .bmp .dib .gif .tif .tiff .webp .ppm .pgm .pbm .pnm .jp2 .tga"
SUFFIXES = frozenset(_READ.split())
"""In lower case: what counts as an image in a folder."""
_UNREAD = (
    ".heic .heif .avif .jxl .raw .dng .cr2 .cr3 .nef .nrw .arw .srf .sr2 .raf .orf .rw2 .pef .srw .x3f .3fr .iiq .psd "
    ".xcf .exr .hdr .dcm .dicom .nii .svs .ndpi .czi .mrxs .lif .vsi .j2k .jpx .jpf .ico .pcx .dds .fits"
)
UNREAD = frozenset(_UNREAD.split())
"""Suffixes of images in formats that are not read: in a folder such a file is left out with a word, not passed over."""


def read_image(path: Path, max_pixels: int = MAX_PIXELS) -> Tensor:
    """The image in ``path`` as [3, H, W] uint8, in RGB, upright.

    - It is turned as its EXIF says, as viewers and tools for annotation show it.
    - Grey, 1-bit, palette, CMYK, YCbCr, Lab and HSV become RGB; an alpha channel is dropped and the colours stored
      under it are shown, as published loaders do (compositing would need a background, which is not known).
    - Other numbers than those of 8 bits become bytes by ``headlens.data.pixel_values.image_of``.

    Raises:
        DataError: missing, empty, truncated, no image, of several frames, no regular file, with more than
            ``max_pixels``, or with values that are negative, infinite, or in no usual range.

    >>> import tempfile
    >>> from PIL import Image
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder) / "grey.png"
    ...     Image.new("L", (4, 2), 7).save(path)
    ...     image = read_image(path)
    >>> image.shape, image.dtype, image.unique()
    (torch.Size([3, 2, 4]), torch.uint8, tensor([7], dtype=torch.uint8))
    """
    return read_upright(path, max_pixels)[0]


def read_upright(path: Path, max_pixels: int = MAX_PIXELS) -> tuple[Tensor, int]:
    """``read_image``, and the orientation of EXIF, 1 to 8, that it was turned by."""
    stored = decoded(path, max_pixels)
    return image_of(stored, str(path)), stored.orientation


def read_mask(path: Path, max_pixels: int = MAX_PIXELS) -> Tensor:
    """The mask in ``path`` as [H, W] bool, upright: true where there is an anomaly.

    Anything above 0 in any channel is an anomaly, as published: a label of 1 in 255 counts. Not so where 0 is not kept
    exactly, in lossy files (JPEG) and in files whose values look like those of black and white that went through
    one, or was smoothed: there an anomaly is what is above half of the range, if anything is. Palettes count by their
    colours, what one sees, since the order of a palette is the whim of the program that wrote it. A constant alpha
    channel is ignored; one that varies lies on black, so that what is transparent is not marked.

    Raises:
        DataError: as ``read_image``, for values below 0, and for a black mask with varying transparency.

    >>> import tempfile
    >>> from PIL import Image
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder) / "label.png"
    ...     Image.new("L", (4, 2), 1).save(path)
    ...     read_mask(path).all()
    tensor(True)
    """
    return mask_of(decoded(path, max_pixels, alpha=True), str(path))
