# SPDX-License-Identifier: MIT
"""Images to train, calibrate and evaluate with: data sets by name, read a whole batch at a time.

>>> data = load_data("mnist-5k")
>>> print(data)
mnist-5k: 4,000 training and 1,000 test images of 1x28x28 in 10 classes
>>> images, labels = next(iter(data.batches("test", batch_size=32)))
>>> images.shape, images.dtype, labels.dtype
(torch.Size([32, 1, 28, 28]), torch.float32, torch.int64)
"""

# The modules of the data sets enter themselves in the registry when they are imported.
from bitwright.data import digit_scenes as _digit_scenes
from bitwright.data import fashion_mnist as _fashion_mnist
from bitwright.data import hugging_face as _hugging_face
from bitwright.data import mnist as _mnist
from bitwright.data import web_dataset as _web_dataset
from bitwright.data.folder import FolderImages
from bitwright.data.image_data import ImageData
from bitwright.data.image_set import ImageSet
from bitwright.data.in_memory import InMemoryImages
from bitwright.data.loader import batches
from bitwright.data.outputs import Matched, imagenet_synsets, match_outputs
from bitwright.data.own import OwnImages
from bitwright.data.preprocessing import Preprocessing
from bitwright.data.registry import load_data, names, source
from bitwright.data.request import Request
from bitwright.data.subset import ImageSubset, part_of, subset

del _digit_scenes, _fashion_mnist, _mnist, _hugging_face, _web_dataset

__all__ = [
    "FolderImages",
    "ImageData",
    "ImageSet",
    "ImageSubset",
    "InMemoryImages",
    "Matched",
    "OwnImages",
    "Preprocessing",
    "Request",
    "batches",
    "imagenet_synsets",
    "load_data",
    "match_outputs",
    "names",
    "part_of",
    "source",
    "subset",
]
