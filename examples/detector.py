"""Why a detector is sure of its best box, by its backbone: detector.py weights.pt mycode:Detector cat.png out.png"""

import sys

import camhelpers as ch

weights, architecture, picture, out = sys.argv[1:]
model = ch.load_model(weights, architecture, classes=["ship"], size=(256, 256))
ex = ch.explain(model, picture, target=lambda found: found["scores"].max())  # a dict for each picture, as torchvision's
print("by", ex.layers[0])
ch.images.save_image(out, ex.overlay("layercam"))
