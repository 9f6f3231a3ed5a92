"""Images to what graphs take, and what graphs say of pixels back to the size of an image.

Knows nothing of graphs and tasks. Pillow is imported when it is first needed.
"""

from wherry.vision.processor import ImageProcessor
from wherry.vision.read import read_image

__all__ = ["ImageProcessor", "read_image"]
